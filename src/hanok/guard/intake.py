"""What a model is about to read, put to the rules: each may look at all of it, and has a budget for that.

A finding belongs to a part, or to the whole. Redaction changes what the model reads; nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hanok.guard.careful import Careful, Clock, Fail
from hanok.guard.provenance import Part
from hanok.guard.unseen import bare
from hanok.guard.verdicts import Action, Finding, strictest

MOST_KEPT = 1000  # findings of a rule in a request, beside those that cut something out
_WINDOW, _OVERLAP = 8192, 1024  # characters: between windows the clock is looked at


@dataclass(frozen=True, slots=True)
class Located:
    """A finding with the number of its part; None where the whole is meant."""

    part: int | None
    finding: Finding


class InputRule(Protocol):
    name: str

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        """Calls `clock.check` between pieces of work. Spans are of the part's text."""
        ...


class TextRule(Protocol):
    """Finds what it minds in one text; see `hanok.guard.filter.OutputRule`, whose `find` it has."""

    name: str

    def find(self, text: str) -> Iterator[Finding]: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """A rule of input, what becomes of the request if it fails, and its budget in processor seconds."""

    rule: InputRule
    fail: Fail = "flag"
    budget: float = 0.05


@dataclass(frozen=True, slots=True)
class Intake:
    """`parts`: what the model may read."""

    parts: tuple[Part, ...]
    found: tuple[Located, ...]

    @property
    def action(self) -> Action:
        return strictest([one.finding for one in self.found])


def take_in(parts: Sequence[Part], readers: Sequence[Reader]) -> Intake:
    found: list[Located] = []
    for reader in readers:
        care = Careful(reader.rule.name, reader.fail, reader.budget)
        care.run(lambda clock, reader=reader: _read(reader.rule, parts, clock, found))
        if care.failure is not None:
            action: Action = "block" if care.fail == "closed" else "flag"
            found.append(Located(None, Finding(care.name, 0, 0, action, care.failure)))
    cuts: dict[int, list[Finding]] = {}
    for one in found:
        if one.part is not None and one.finding.action == "redact":
            cuts.setdefault(one.part, []).append(one.finding)
    read = tuple(
        _redacted(part, cuts[number]) if number in cuts else part for number, part in enumerate(parts)
    )
    return Intake(read, tuple(found))


class Scan:
    """A rule of text as a rule of input: every part in windows, so that a long text can be given up in between.

    Args:
        origins: of the parts that it reads.
    """

    def __init__(self, rule: TextRule, origins: frozenset[str]) -> None:
        self.name, self._rule, self._origins = rule.name, rule, origins

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        raw = getattr(self._rule, "raw", False)
        for number, part in enumerate(parts):
            if part.origin not in self._origins:
                continue
            plain, seen = bare("" if raw else part.text), set[tuple[int, int]]()
            text = part.text if raw else plain.text
            for begin in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
                for one in self._rule.find(text[begin : begin + _WINDOW]):
                    span = (plain.start(begin + one.start), plain.end(begin + one.end))
                    if span not in seen:
                        seen.add(span)
                        yield Located(number, replace(one, start=span[0], end=span[1]))
                clock.check()


def _read(rule: InputRule, parts: Sequence[Part], clock: Clock, found: list[Located]) -> None:
    """One by one: what is found before a rule fails counts. What changes nothing is kept up to a number."""
    kept = 0
    for one in rule.read(parts, clock):
        if one.finding.action not in ("redact", "block"):
            kept += 1
            if kept > MOST_KEPT:
                continue
        found.append(one)


def _redacted(part: Part, cuts: Sequence[Finding]) -> Part:
    spans = sorted(cuts, key=lambda finding: (finding.start, -finding.end))
    pieces, place = [], 0
    for one in spans:
        if one.end > place:
            pieces += [part.text[place : max(place, one.start)], one.instead]
            place = one.end
    return replace(part, text="".join([*pieces, part.text[place:]]))
