"""What a rule says of a text, and where; and what those are told who count, log and keep verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["allow", "flag", "redact", "ask", "block"]
Direction = Literal["input", "output"]
_ORDER: Sequence[Action] = ("allow", "flag", "redact", "ask", "block")


@dataclass(frozen=True, slots=True)
class Finding:
    """[start, end) of the text that was looked at. `instead`: what stands there when it is redacted."""

    rule: str
    start: int
    end: int
    action: Action
    reason: str = ""
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    findings: tuple[Finding, ...] = ()

    @property
    def action(self) -> Action:
        """The strictest of all."""
        return strictest(self.findings)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictEvent:
    """One finding, or several of one rule in one place, without a word of what was found.

    Args:
        request_id: of the exchange. key_id: of the key or person that asked.
        direction: "input" of what the model was to read, "output" of what it wrote.
        where: which part of it: "messages.2", "tools", "text", "reasoning", "arguments", with the sample's number where there
            are several; empty where they are many.
        span: [start, end) of that part, in characters; None where the whole of it is meant.
        count: how many findings it stands for; `span` is the first one's.
        reason: what kind of thing it is, by the rule's own words; never content.
        told: whoever asked hears of it; false for what a silent rule only flags.
    """

    request_id: str
    tenant: str
    key_id: str
    model: str
    rule: str
    action: Action
    direction: Direction
    where: str
    span: tuple[int, int] | None
    reason: str
    count: int = 1
    told: bool = True


def strictest(findings: Sequence[Finding]) -> Action:
    actions: list[Action] = [finding.action for finding in findings]
    return max(actions, key=_ORDER.index) if actions else "allow"
