"""An answer on its way out: read by rules before anybody sees it, whether it comes at once or letter by letter.

The filter looks whenever a word has ended, and lets go of what no rule can still change: a match that has begun, or whose meaning
the next words may tell, is held back. When it looks depends on the text alone, never on how it was cut into pieces, so a streamed
answer and a whole one get the same verdict by construction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hanok.guard.characters import visible
from hanok.guard.verdicts import Finding

CONTEXT = 256  # characters already let go that rules still see before what is new
LONGEST = 20_000  # held back at most; a match longer than that is cut there
_END_OF_WORD = re.compile(
    r"\s|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3](?![\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])"
)


class OutputRule(Protocol):
    name: str

    def find(self, text: str) -> Iterator[Finding]:
        """What it minds, with spans of `text`."""
        ...

    def open_from(self, text: str) -> int:
        """From where on the next characters could change what `find` says; the length if from nowhere."""
        ...


@dataclass(frozen=True, slots=True)
class Released:
    """What may be sent now; `blocked`: nothing more will come. Findings have the spans of the whole answer as it was written."""

    text: str
    findings: tuple[Finding, ...] = ()
    blocked: bool = False


class OutputFilter:
    """One channel of one answer: its text, its reasoning, or the arguments of a call."""

    def __init__(self, rules: Sequence[OutputRule]) -> None:
        self._rules = rules
        self._before = ""  # let go, as it was written
        self._held = ""
        self._looked = 0  # characters of `_held` that a look has seen
        self._place = 0  # of `_held` in the whole answer
        self._blocked = False
        self.scanned = 0  # characters that came in
        self.released = 0  # characters that went out

    def push(self, text: str) -> Released:
        """New characters of the answer; what may go out."""
        if self._blocked or not text:
            return Released("", blocked=self._blocked)
        self.scanned += len(text)
        self._held += text
        parts: list[Released] = []
        while not self._blocked and (end := self._next_end()) is not None:
            parts.append(self._look(end, last=False))
        return self._joined(parts)

    def finish(self) -> Released:
        """The rest: nothing can change it any more."""
        return (
            Released("", blocked=True)
            if self._blocked
            else self._joined([self._look(len(self._held), last=True)])
        )

    def _next_end(self) -> int | None:
        """Where the next word ends. The character behind it must be known, except for a blank."""
        match = _END_OF_WORD.search(self._held, self._looked, self._looked + LONGEST + 1)
        if match is not None and (match[0].isspace() or match.end() < len(self._held)):
            return match.end()
        return self._looked + LONGEST if len(self._held) - self._looked > LONGEST else None

    def _look(self, end: int, *, last: bool) -> Released:
        shift = len(self._before)
        text = self._before + self._held[:end]
        free = len(text)
        if not last and end <= LONGEST:
            free = max(shift, min(rule.open_from(text) for rule in self._rules)) if self._rules else free
        found = sorted(
            (one for rule in self._rules for one in rule.find(text) if one.end > shift),
            key=lambda one: (one.start, -one.end),
        )
        for one in found:  # whole ones only
            if one.start < free < one.end:
                free = max(shift, one.start)
        decided = [one for one in found if one.start < free]
        stop = next((one for one in decided if one.action == "block"), None)
        if stop is not None:
            self._blocked = True
            free = max(shift, min(stop.start, free))
            decided = [one for one in decided if one.start < free or one is stop]
        out = self._rendered(text, shift, free, decided)
        moved = self._place - shift
        self._before = text[max(0, free - CONTEXT) : free]
        self._held = self._held[free - shift :]
        self._place += free - shift
        self._looked = end - (free - shift)
        self.released += len(out)
        findings = tuple(
            Finding(one.rule, max(0, one.start + moved), one.end + moved, one.action, one.reason, one.instead)
            for one in decided
        )
        return Released(out, findings, self._blocked)

    def _rendered(self, text: str, start: int, end: int, findings: Sequence[Finding]) -> str:
        parts, place = [], start
        for one in findings:
            if one.action == "redact" and one.end > place:
                parts += [visible(text[place : max(place, one.start)]), one.instead]
                place = one.end
        return "".join([*parts, visible(text[place:end])] if place < end else parts)

    def _joined(self, parts: Sequence[Released]) -> Released:
        findings = tuple(one for part in parts for one in part.findings)
        return Released("".join(part.text for part in parts), findings, self._blocked)
