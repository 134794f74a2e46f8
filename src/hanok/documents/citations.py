"""Citations in an answer: "[2]" or "[1, 3]" become numbers that resolve, or go.

A citation stands in square brackets and holds numbers with commas, semicolons or spaces between them, or ranges of them
("[1-3]"); in fenced code brackets are left alone. A number that no passage has is taken out, and brackets that are left empty
go with the space before them. What remains resolves: that is a tested property. The text is read once from left to right, so
a streamed answer and a whole one come to the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hanok.documents.records import Found

_DASH = r"\s*[~\u2010-\u2015-]\s*"
_ITEM = rf"\d+(?:{_DASH}\d+)?"
_CITATION = re.compile(rf"[\s,;]*{_ITEM}(?:[\s,;]+{_ITEM})*[\s,;]*")
_ITEMS = re.compile(rf"(\d+)(?:{_DASH}(\d+))?")
_MAY_BE_INSIDE = re.compile(r"[\d\s,;~\u2010-\u2015-]")
_FENCE = "```"
_LONGEST = 6  # digits of a number that can be known


@dataclass(frozen=True, slots=True)
class Citation:
    """Number `number` at character `index` of the answer."""

    index: int
    number: int
    passage: Found

    def annotation(self) -> dict[str, Any]:
        """As OpenAI's answers carry it, with the passage itself beside."""
        passage = self.passage
        return {
            "type": "file_citation", "index": self.index, "file_id": passage.file_id, "filename": passage.name,
            "number": self.number, "passage": passage.number, "text_number": passage.text_number, "start": passage.start,
            "end": passage.end, "text": passage.text,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer with citations that resolve. `removed`: numbers that did not."""

    text: str
    citations: tuple[Citation, ...]
    removed: int

    @property
    def annotations(self) -> list[dict[str, Any]]:
        return [citation.annotation() for citation in self.citations]


def cite(answer: str, passages: Sequence[Found]) -> Cited:
    """Args: passages: numbered from 1."""
    stream = CitationStream(passages)
    text = stream.push(answer) + stream.finish()
    return Cited(text, stream.citations, stream.removed)


class CitationStream:
    """Give it an answer piece by piece; what comes back is settled, and together the answer with citations that resolve."""

    def __init__(self, passages: Sequence[Found]) -> None:
        self._passages = passages
        self._citations: list[Citation] = []
        self._held = ""  # from the first bracket that may still become a citation, and the space before it
        self._ticks = 0
        self._fenced = False
        self._length = 0
        self.removed = 0

    @property
    def citations(self) -> tuple[Citation, ...]:
        return tuple(self._citations)

    @property
    def annotations(self) -> list[dict[str, Any]]:
        return [citation.annotation() for citation in self._citations]

    def push(self, text: str) -> str:
        return "".join(map(self._read, text))

    def finish(self) -> str:
        return self._release()

    def _read(self, character: str) -> str:
        self._ticks = self._ticks + 1 if character == "`" else 0
        if self._ticks == len(_FENCE):
            self._fenced, self._ticks = not self._fenced, 0
        if self._fenced:
            return self._release(character)
        is_open = "[" in self._held
        if character == "]" and is_open:
            return self._close()
        if character == "[" or (is_open and _MAY_BE_INSIDE.fullmatch(character)):
            self._held += character
            return ""
        if character == " ":  # may stand before a citation that goes
            out, self._held = self._release(), character
            return out
        return self._release(character)

    def _close(self) -> str:
        """The last open bracket closes: keep its numbers that resolve."""
        before, _, inside = self._held.rpartition("[")
        if _CITATION.fullmatch(inside) is None:
            return self._release("]")
        known, unknown = _numbers(inside, len(self._passages))
        self.removed += unknown
        if not known:
            self._held = before if "[" in before else before.rstrip(" ")
            return "" if self._held else self._release()
        self._held = before
        out = self._release()
        self._citations += [Citation(self._length, number, self._passages[number - 1]) for number in known]
        return out + self._release(f"[{', '.join(map(str, known))}]")

    def _release(self, more: str = "") -> str:
        out, self._held = self._held + more, ""
        self._length += len(out)
        return out


def _numbers(inside: str, most: int) -> tuple[list[int], int]:
    """The numbers that a passage has, each once, ranges filled in; and how many no passage has."""
    known: dict[int, None] = {}
    unknown = 0
    for first, last in _ITEMS.findall(inside):
        ends = [first, last] if last else [first]
        good = [int(end) for end in ends if len(end) <= _LONGEST and 1 <= int(end) <= most]
        unknown += len(ends) - len(good)
        known |= dict.fromkeys(range(min(good), max(good) + 1) if len(good) == len(ends) else good)
    return list(known), unknown
