"""A text cut into passages: what search finds and citations show.

Passages end at headings, at paragraphs once they are half full, and at sentences; a sentence that is too long is cut at a
space. Each is a stretch of the text as it stands, so that two offsets say exactly what it is, and begins with the last
sentences of the one before it (not across a heading), so that nothing is lost between two.

A character of Hangul, Han or Kana counts twice: 800 is about 400 such characters or 800 Latin ones, 200 to 300 tokens.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

WIDEST, OVERLAP = 800, 160

_SENTENCE_END = re.compile(r"[.!?。！？…]+[\"'”’)\]」』]*(?=\s)|\n+")
_HEADING = re.compile(r"(#{1,6})\s+(\S.*?)\s*#*\s*$")
_FENCE = re.compile(r"\s*(```|~~~)")
_WIDE = "WF"  # Unicode's "wide" and "full-width"


@dataclass(frozen=True, slots=True)
class Passage:
    """`text[start:end]` below `heading` ("Guide > Opening hours", or nothing)."""

    start: int
    end: int
    heading: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence or a part of one. `parts`: whether a paragraph begins with it."""

    start: int
    end: int
    width: int
    parts: bool
    heading: str


def cut(text: str, *, widest: int = WIDEST, overlap: int = OVERLAP) -> list[Passage]:
    """Passages in order; every character but white space and headings lies in one, and none is wider than `widest`.

    A text of nothing but headings is cut as if they were none.
    """
    pieces = list(_pieces(text, widest, _HEADING)) or list(_pieces(text, widest, None))
    found: list[Passage] = []
    held: list[_Piece] = []
    fresh = 0  # pieces of `held` that are in no passage yet

    def close() -> None:
        nonlocal fresh
        if fresh:
            found.append(Passage(held[0].start, held[-1].end, held[0].heading))
        fresh = 0

    for piece in pieces:
        if held and piece.heading != held[-1].heading:
            close()
            held = []
        elif held and (
            _width(text[held[0].start : piece.end]) > widest
            or (piece.parts and _width(text[held[0].start : held[-1].end]) >= widest // 2)
        ):
            close()
            held = _tail(held, min(overlap, widest - piece.width))
            if held and _width(text[held[0].start : piece.end]) > widest:
                held = []
        held.append(piece)
        fresh += 1
    close()
    return found


def divided(text: str) -> list[str]:
    """Sentences in order, with the white space around them; a line's end ends one too."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(ends)]
    return [part for part in parts if part and not part.isspace()]


def _tail(held: list[_Piece], room: int) -> list[_Piece]:
    """The last sentences that fit into `room`."""
    kept: list[_Piece] = []
    for piece in reversed(held):
        room -= piece.width + 1
        if room < 0:
            break
        kept.insert(0, piece)
    return kept


def _pieces(text: str, widest: int, pattern: re.Pattern[str] | None) -> Iterator[_Piece]:
    """Sentences with their headings, none wider than `widest`."""
    trail: list[tuple[int, str]] = []
    parts, fenced = True, False
    place = 0
    for line in text.splitlines(keepends=True):
        start, place = place, place + len(line)
        if not line.strip():
            parts = True
            continue
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced or pattern is None else pattern.match(line)
        if heading is not None:
            trail = [(level, title) for level, title in trail if level < len(heading[1])]
            trail.append((len(heading[1]), heading[2][:200]))
            parts = True
            continue
        above = " > ".join(title for _, title in trail)[-500:]
        for begin, end in _sentences(text, start, place):
            for first, last in _fitting(text, begin, end, widest):
                yield _Piece(first, last, _width(text[first:last]), parts, above)
                parts = False


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans without the white space around them."""
    begin = start
    for match in _SENTENCE_END.finditer(text, start, end):
        yield from _stripped(text, begin, match.end())
        begin = match.end()
    yield from _stripped(text, begin, end)


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def _fitting(text: str, start: int, end: int, widest: int) -> Iterator[tuple[int, int]]:
    """One span, or several where it is too wide: cut at the last space of the second half, else anywhere."""
    while _width(text[start:end]) > widest:
        stop = start + _most(text[start:end], widest)
        space = text.rfind(" ", start + (stop - start) // 2, stop)
        stop = space if space > start else stop
        yield from _stripped(text, start, stop)
        start = stop
    yield from _stripped(text, start, end)


def _most(text: str, widest: int) -> int:
    """How many characters fit; at least one."""
    width = 0
    for place, character in enumerate(text):
        width += _width(character)
        if width > widest:
            return max(1, place)
    return len(text)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(character) in _WIDE for character in text)
