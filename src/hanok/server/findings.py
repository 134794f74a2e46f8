"""What the guard found, for whoever asked: which rule, what it did and where, in text that they have already.

An answer has it in a field `guard`, and so has the error of a request that was blocked:

    {"findings": [{"direction": "input", "where": "messages.0", "rule": "secrets", "action": "redact", "reason": "AWS key",
                   "span": [10, 30]},
                  {"direction": "output", "choice": 0, "where": "text", ..., "span": [3, 11]}], "omitted": 0}

Spans of input count characters of what was sent. Those of output count characters of what was answered, with what stands in place
of a redaction, so that they tell nothing of what was taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hanok.guard.verdicts import Direction, Finding

MOST_TOLD = 100
Span = tuple[int, int]


class Findings:
    """Of one request. Args: tells: of a rule and an action, whether they are to hear of it."""

    def __init__(self, tells: Callable[[str, str], bool]) -> None:
        self._tells = tells
        self._told: list[dict[str, Any]] = []
        self._omitted = 0

    def add(
        self, one: Finding, direction: Direction, where: str, span: Span | None, *, choice: int | None = None
    ) -> None:
        """Args: span: None where the whole of it is meant, or the place is not one in what they have."""
        if not self._tells(one.rule, one.action):
            return
        told: dict[str, Any] = {
            "direction": direction, **({} if choice is None else {"choice": choice}), "where": where, "rule": one.rule,
            "action": one.action, "reason": one.reason, "span": None if span is None else list(span),
        }  # fmt: skip
        if told in self._told:
            return
        if len(self._told) < MOST_TOLD:
            self._told.append(told)
        else:
            self._omitted += 1

    def fields(self, choices: Mapping[int, int] | None = None) -> dict[str, Any]:
        """For the answer; none where nothing was found. Args: choices: samples that are answered, and their numbers there."""
        told = self._told
        if choices is not None:
            moved = (
                {**one, **({"choice": choices.get(one["choice"])} if "choice" in one else {})} for one in told
            )
            told = [one for one in moved if one.get("choice", 0) is not None]
        return {"guard": {"findings": list(told), "omitted": self._omitted}} if told else {}
