"""What a rule says of a text, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["allow", "flag", "redact", "block"]
_ORDER: Sequence[Action] = ("allow", "flag", "redact", "block")


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
        actions: list[Action] = [finding.action for finding in self.findings]
        return max(actions, key=_ORDER.index) if actions else "allow"
