"""Findings told together: a text full of what a rule minds is one event with a count, not a line for each of them.

Of what is read, everything is known at once. Of an answer that is under way, the first finding is told as it comes and those
after it in twos, fours, eights: what is not told yet when somebody goes away is less than what was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hanok.guard.verdicts import Finding

MOST_PLACES = 64  # that are told apart, of one rule and action
_MOST_REASONS = 4
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Told:
    """`finding`: the first of `count`, with the reasons of all; `where` is empty for findings in many places."""

    finding: Finding
    where: str
    count: int


def together(found: Iterable[tuple[Finding, str]]) -> list[Told]:
    """One for each rule, action and place, in the order of the first."""
    groups: dict[Key, list[Finding]] = {}
    places: dict[tuple[str, str], set[str]] = {}
    for one, where in found:
        known = places.setdefault((one.rule, one.action), set())
        if len(known) < MOST_PLACES:
            known.add(where)
        key = (one.rule, one.action, where if where in known else "")
        groups.setdefault(key, []).append(one)
    return [Told(_first(group, whole=not key[2]), key[2], len(group)) for key, group in groups.items()]


def _first(group: Sequence[Finding], *, whole: bool) -> Finding:
    reasons = list(dict.fromkeys(one.reason for one in group))
    reason = ", ".join(reasons[:_MOST_REASONS]) + (", ..." if len(reasons) > _MOST_REASONS else "")
    first = replace(group[0], reason=reason)
    return replace(first, start=0, end=0) if whole and len(group) > 1 else first


class Tally:
    """Of one answer."""

    def __init__(self) -> None:
        self._held: dict[Key, list[Finding]] = {}
        self._counts: dict[Key, int] = {}

    def add(self, findings: Sequence[Finding], where: str) -> list[Told]:
        """What is to be told now."""
        told: list[Told] = []
        for one in findings:
            key = (one.rule, one.action, where)
            held = self._held.setdefault(key, [])
            held.append(one)
            count = self._counts[key] = self._counts.get(key, 0) + 1
            if count & (count - 1) == 0:  # 1, 2, 4, 8
                told.append(Told(_first(held, whole=False), where, len(held)))
                held.clear()
        return told

    def rest(self) -> list[Told]:
        told = [
            Told(_first(held, whole=False), key[2], len(held)) for key, held in self._held.items() if held
        ]
        self._held.clear()
        return told
