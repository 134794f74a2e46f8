"""Rules of form: how long, how deep, how repetitive a request may be, and how many turns of a conversation it may act out.

Size        characters and parts in all, characters of one part, nesting of JSON in arguments and definitions
Repetition  a stretch that is the same few characters again and again
ManyShot    one message that plays many turns between a user and an assistant (many-shot jailbreaks)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from hanok.guard.careful import Clock
from hanok.guard.intake import Located
from hanok.guard.provenance import Part
from hanok.guard.verdicts import Action, Finding

_SIGN = re.compile(r'\\.|["\[\]{}]', re.S)
_PERIODS = 64
_LABEL = re.compile(
    r"(?<!\w)(?:(?P<user>user|human|사용자|유저|instruction)|(?P<assistant>assistant|ai|bot|chatbot|어시스턴트|챗봇|인공지능|response)"
    r"|(?P<question>q|question|질문|문제)|(?P<answer>a|answer|답변|답|정답))[ \t]?\d{0,4}[ \t]?(?:[:：]|\|>|\*\*)",
    re.I,
)


class Size:
    """Args: characters: of all parts; part_characters: of one; parts: how many; depth: of brackets in JSON. None: any."""

    def __init__(
        self, name: str = "size", action: Action = "block", *, characters: int | None = None, part_characters: int | None = None,
        parts: int | None = None, depth: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self._action: Action = action
        self._characters, self._part, self._parts, self._depth = characters, part_characters, parts, depth

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        total = sum(len(part.text) for part in parts)
        if self._characters is not None and total > self._characters:
            yield self._found(None, f"{total} characters, {self._characters} may be")
        if self._parts is not None and len(parts) > self._parts:
            yield self._found(None, f"{len(parts)} parts, {self._parts} may be")
        for number, part in enumerate(parts):
            if self._part is not None and len(part.text) > self._part:
                yield self._found(number, f"{len(part.text)} characters in one part, {self._part} may be")
            if (
                self._depth is not None
                and part.origin == "definition"
                and (deep := depth(part.text)) > self._depth
            ):
                yield self._found(number, f"{deep} levels, {self._depth} may be")
            clock.check()

    def _found(self, part: int | None, reason: str) -> Located:
        return Located(part, Finding(self.name, 0, 0, self._action, reason))


def depth(text: str) -> int:
    """Of brackets outside of strings."""
    level = deepest = 0
    inside = False
    for sign in _SIGN.findall(text):
        if sign == '"':
            inside = not inside
        elif not inside and len(sign) == 1:
            level += 1 if sign in "[{" else -1
            deepest = max(deepest, level)
    return deepest


class Repetition:
    """Args: characters: how long a stretch may repeat itself with a period of up to 64."""

    def __init__(self, name: str = "repetition", action: Action = "flag", *, characters: int = 4000) -> None:
        self.name, self._most = name, characters
        self._action: Action = action

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        for number, part in enumerate(parts):
            if len(part.text) <= self._most:
                continue
            codes_N = np.frombuffer(part.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            for period in range(1, _PERIODS + 1):
                breaks = np.flatnonzero(codes_N[period:] != codes_N[:-period])
                edges = np.concatenate([[-1], breaks, [len(codes_N) - period]])
                lengths = np.diff(edges) - 1
                longest = int(lengths.argmax())
                if lengths[longest] + period > self._most:
                    start = int(edges[longest]) + 1
                    end = start + int(lengths[longest]) + period
                    yield Located(number, Finding(self.name, start, end, self._action, f"period of {period}"))
                    break
                clock.check()


class ManyShot:
    """Args: turns: pairs of a user's and an assistant's turn that one message may hold.

    Questions and answers are what honest collections of them look like too; they count only where the last question is left open,
    as a model is to answer it.
    """

    def __init__(self, name: str = "many-shot", action: Action = "flag", *, turns: int = 8) -> None:
        self.name, self._most = name, turns
        self._action: Action = action

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        for number, part in enumerate(parts):
            if part.origin in ("system", "definition", "assistant"):
                continue  # examples of the operator's own
            labels = list(_LABEL.finditer(part.text))
            kinds = [match.lastgroup for match in labels]
            acted = min(kinds.count("user"), kinds.count("assistant"))
            asked = min(kinds.count("question"), kinds.count("answer"))
            if asked and not self._open(part.text, labels):
                asked = 0
            if max(acted, asked) > self._most:
                span = (labels[0].start(), labels[-1].end())
                yield Located(
                    number,
                    Finding(self.name, *span, self._action, f"{max(acted, asked)} turns in one message"),
                )
            clock.check()

    @staticmethod
    def _open(text: str, labels: Sequence[re.Match[str]]) -> bool:
        last = labels[-1]
        return last.lastgroup in ("question", "user") or not text[last.end() :].strip(' \t\n"*')
