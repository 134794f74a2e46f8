"""An answer on its way out: read by rules before anybody sees it, whether it comes at once or letter by letter.

The filter looks whenever a word has ended, and lets go of what no rule can still change: a match that has begun, or whose meaning
the next words may tell, is held back. A word without end (a script without blanks, base64) is looked at every `STEP` characters,
where every rule can say what may have begun inside of it. When it looks depends on the text alone, never on how it was cut into
pieces, so a streamed answer and a whole one get the same verdict by construction.

An answer's first letters need not wait for that, so that people see at once that it begins: as many as every rule says tell it
nothing (`opening`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hanok.guard.careful import Careful, Fail
from hanok.guard.characters import COVERT
from hanok.guard.unseen import Bare, bare
from hanok.guard.verdicts import Finding

CONTEXT = 256  # characters already let go that rules still see before what is new
LONGEST = 20_000  # held back at most; a match longer than that is cut there
STEP = 64  # characters of one word after which it is looked at before it has ended
_OFTEN = 512  # characters held back up to which every word is looked at; beyond, so seldom that the work stays linear
_BEGUN = 16  # characters in which whatever a follower minds can have begun unnoticed: a scheme, a tag's sign
_END_OF_WORD = re.compile(
    r"\s|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3](?![\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])"
)


Stage = Literal["answer", "value", "again"]


class OutputRule(Protocol):
    """What a rule may have besides. `raw`, true: it wants the text with its unseen characters (`hanok.guard.unseen`). `opening`:
    so many letters may an answer begin with before it has read them; none without it. `stages`: what it reads; all without it.
    `open_within`: as `open_from`, where the text may end in the middle of a word; without it words are held back whole."""

    name: str

    def find(self, text: str) -> Iterator[Finding]:
        """What it minds, with spans of `text`."""
        ...

    def open_from(self, text: str) -> int:
        """From where on the next characters could change what `find` says; the length if from nowhere."""
        ...


class Follower(Protocol):
    """A rule at work in one channel, which remembers what it has seen there."""

    def read(self, text: str, *, last: bool) -> tuple[int, list[Finding]]:
        """Args: text: what is not decided yet, without its unseen characters. last: it is judged now, whatever may come.

        Returns:
            from where on the next characters could change the findings (the length if from nowhere), and those, with spans of
            `text`.
        """
        ...

    def passed(self, text: str) -> None:
        """The next characters whose fate is decided: `read` sees them no more."""
        ...


class Following(Protocol):
    """A rule of output that must know more of a channel than the last few hundred characters."""

    name: str

    def begin(self, before: str) -> Follower:
        """At the beginning of a channel. Args: before: as `OutputFilter` takes it."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule, what becomes of the answer if it fails, and the processor seconds that it may take for one look."""

    rule: OutputRule | Following
    fail: Fail = "closed"
    budget: float = 0.05


@dataclass(frozen=True, slots=True)
class Released:
    """What may be sent now; `blocked`: nothing more will come. Findings have the spans of the whole answer as it was written;
    `places`: where each stands, [start, end), in the whole of what was sent, which tells nothing of what was taken out."""

    text: str
    findings: tuple[Finding, ...] = ()
    blocked: bool = False
    places: tuple[tuple[int, int], ...] = ()


class OutputFilter:
    """One channel of one answer: its text, its reasoning, or the arguments of a call.

    Args:
        before: what stands before the answer and is known already: a secret may begin there.
        of: what it reads: an answer, one value of a call's arguments, or an answer once more that was changed since.
    """

    def __init__(
        self, rules: Sequence[OutputRule | Following | Kept], *, before: str = "", of: Stage = "answer"
    ) -> None:
        kept = [one if isinstance(one, Kept) else Kept(one) for one in rules]
        kept = [one for one in kept if of in getattr(one.rule, "stages", (of,))]
        self._before = before[-CONTEXT:]  # let go, as it was written
        known = bare(self._before).text
        self._rules = [
            (_Reader(one.rule, known), Careful(one.rule.name, one.fail, one.budget)) for one in kept
        ]
        every = (hasattr(one.rule, "open_within") or hasattr(one.rule, "begin") for one in kept)
        self._step = STEP if all(every) else LONGEST
        self._opening = 0 if before else min((getattr(one.rule, "opening", 0) for one in kept), default=0)
        self._lettered = False  # a letter has gone out early
        self._held = ""
        self._sought = 0  # characters of `_held` up to which no word ends
        self._looked = 0  # characters of `_held` that a look has seen
        self._place = 0  # of `_held` in the whole answer
        self._blocked = False
        self.scanned = 0  # characters that came in
        self.released = 0  # characters that went out

    @property
    def blocked(self) -> bool:
        """Nothing more will come out."""
        return self._blocked

    @property
    def place(self) -> int:
        """Characters whose fate is decided."""
        return self._place

    @property
    def before(self) -> str:
        """The end of what is decided, as it was written: what comes next may go on from it."""
        return self._before

    def push(self, text: str) -> Released:
        """New characters of the answer; what may go out."""
        if self._blocked or not text:
            return Released("", blocked=self._blocked)
        self.scanned += len(text)
        if not self._rules:
            self._place, self.released = self.scanned, self.scanned
            return Released(text)
        self._held += text
        parts = [Released(self._open())] if self._opening else []
        while not self._blocked and (found := self._next_end()) is not None:
            parts.append(self._look(found[0], within=found[1]))
        return self._joined(parts)

    def finish(self) -> Released:
        """The rest: nothing can change it any more."""
        return (
            Released("", blocked=True)
            if self._blocked
            else self._joined([self._look(len(self._held), last=True)])
        )

    def clean(self, texts: Sequence[str]) -> bool:
        """Whether no rule finds anything in any of these whole, short texts; a rule that fails is no sign of that."""
        read = [(text, bare(text).text) for text in texts]
        for reader, care in self._rules:
            found = care.run(lambda _clock, reader=reader: any(reader.minds(*one) for one in read))
            if found is not False:
                return False
        return True

    def _open(self) -> str:
        """Blanks and the first letters, as long as there is nothing else."""
        free = 0
        for character in self._held:
            letter = character.isalpha() and character not in COVERT
            if not self._opening or not (letter or (character.isspace() and not self._lettered)):
                self._opening = 0
                break
            free += 1
            self._lettered |= letter
            self._opening -= letter
        out, self._held = self._held[:free], self._held[free:]
        for reader, _ in self._rules:
            reader.passed(out)
        self._before = (self._before + out)[-CONTEXT:]
        self._place += free
        self.released += free
        return out

    def _next_end(self) -> tuple[int, bool] | None:
        """Where the next word ends, or is looked at inside (True). The character behind it must be known, except for a blank."""
        least = self._looked + (self._looked // 8 if self._looked > _OFTEN else 0)
        limit = min(self._looked + LONGEST, least + self._step)
        match = _END_OF_WORD.search(self._held, max(least, self._sought), limit + 1)
        if (
            match is not None
            and match.end() <= limit
            and (match[0].isspace() or match.end() < len(self._held))
        ):
            return match.end(), False
        self._sought = max(self._sought, min(len(self._held), limit) - 1)
        return (limit, True) if len(self._held) > limit else None

    def _look(self, end: int, *, last: bool = False, within: bool = False) -> Released:
        """Args: within: a word may go on behind it."""
        shift = len(self._before)
        text = self._before + self._held[:end]
        plain = bare(text)
        free, found, notes = len(text), list[Finding](), list[Finding]()
        over = last or end > LONGEST
        for reader, care in self._rules:
            if care.failure is not None:
                continue
            looked = care.run(
                lambda _clock, reader=reader: reader.read(text, plain, shift, last=over, within=within)
            )
            if looked is not None:
                free = min(free, looked[0])
                found += [one for one in looked[1] if one.end > shift]
                continue
            action = "block" if care.fail == "closed" else "flag"
            notes.append(Finding(care.name, shift, len(text), action, care.failure or ""))
            if action == "block":
                return self._end(notes)
        free = len(text) if over else max(shift, free)
        found.sort(key=lambda one: (one.start, -one.end))
        for one in reversed(found):  # whole ones only
            if one.start < free < one.end:
                free = max(shift, one.start)
        decided = [
            one for one in found if one.start < free and one.end <= free
        ]  # not what began before and goes on
        stop = next((one for one in decided if one.action == "block"), None)
        if stop is not None:
            self._blocked = True
            free = max(shift, min(stop.start, free))
            decided = [one for one in decided if one.start < free or one is stop]
        shown = _Shown(text, shift, free, decided)
        places = [shown.place(one, self.released) for one in (*decided, *notes)]
        moved = self._place - shift
        self._before = text[max(0, free - CONTEXT) : free]
        for reader, _ in self._rules:
            reader.passed(text[shift:free])
        self._held = self._held[free - shift :]
        self._place += free - shift
        self._looked = end - (free - shift)
        self._sought = 0
        self.released += len(shown.text)
        findings = tuple(
            _placed(one, max(0, one.start + moved), one.end + moved) for one in (*decided, *notes)
        )
        return Released(shown.text, findings, self._blocked, tuple(places))

    def _end(self, notes: Sequence[Finding]) -> Released:
        """A rule that must not fail did: nothing goes out that it has not read."""
        self._blocked = True
        moved = self._place - len(self._before)
        findings = tuple(_placed(one, one.start + moved, one.end + moved) for one in notes)
        return Released("", findings, True, ((self.released, self.released),) * len(findings))

    def _joined(self, parts: Sequence[Released]) -> Released:
        findings = tuple(one for part in parts for one in part.findings)
        places = tuple(one for part in parts for one in part.places)
        return Released("".join(part.text for part in parts), findings, self._blocked, places)


class _Shown:
    """[start, end) of a text with what stands in place of its redactions. `findings`: by their beginning."""

    def __init__(self, text: str, start: int, end: int, findings: Sequence[Finding]) -> None:
        self._start = start
        self._cuts: list[
            tuple[int, int, int, int]
        ] = []  # what was cut out, and where something stands instead
        parts, place, length = list[str](), start, 0
        for one in findings:
            if one.action == "redact" and one.end > place:
                kept = text[place : max(place, one.start)]
                begin, place = place + len(kept), one.end
                parts += [kept, one.instead]
                length += len(kept) + len(one.instead)
                self._cuts.append((begin, place, length - len(one.instead), length))
        self.text = "".join([*parts, text[place:end]] if place < end else parts)

    def place(self, one: Finding, before: int) -> tuple[int, int]:
        """Where it stands in what is shown, behind so many characters; what was shown before it began with that."""
        return before + self._moved(one.start, 0), before + self._moved(one.end, 1)

    def _moved(self, at: int, side: int) -> int:
        """Args: side: where it lies in what was cut out: 0 for the beginning of what stands there instead, 1 for its end."""
        shown = at - self._start
        for begin, end, shown_begin, shown_end in self._cuts:
            if at < begin or (at == begin and side):
                break
            if at < end or (at == end and side):
                return (shown_begin, shown_end)[side]
            shown = shown_end + at - end
        return min(max(shown, 0), len(self.text))


class _Reader:
    """A rule as it reads one channel."""

    def __init__(self, rule: OutputRule | Following, before: str) -> None:
        self._begin = getattr(rule, "begin", None)
        self._follower: Follower | None = None if self._begin is None else self._begin(before)
        self._rule: Any = rule
        self._raw = getattr(rule, "raw", False)

    def read(
        self, text: str, plain: Bare, shift: int, *, last: bool, within: bool
    ) -> tuple[int, list[Finding]]:
        """As `Follower.read`, with places of `text`, of which all before `shift` is decided."""
        if self._follower is not None:
            held = bare(text[shift:])
            free, found = self._follower.read(held.text, last=last)
            free = min(free, max(0, len(held.text) - _BEGUN)) if within else free
            placed = [_placed(one, shift + held.start(one.start), shift + held.end(one.end)) for one in found]
            return shift + held.start(free), placed
        opened = getattr(self._rule, "open_within", self._rule.open_from) if within else self._rule.open_from
        if self._raw:
            return opened(text), list(self._rule.find(text))
        found = [
            _placed(one, plain.start(one.start), plain.end(one.end)) for one in self._rule.find(plain.text)
        ]
        return plain.start(opened(plain.text)), found

    def minds(self, text: str, plain: str) -> bool:
        """Finds something in a whole text."""
        if self._begin is not None:
            return bool(self._begin("").read(plain, last=True)[1])
        return next(iter(self._rule.find(text if self._raw else plain)), None) is not None

    def passed(self, text: str) -> None:
        if self._follower is not None and text:
            self._follower.passed(bare(text).text)


def _placed(one: Finding, start: int, end: int) -> Finding:
    return Finding(one.rule, start, end, one.action, one.reason, one.instead)
