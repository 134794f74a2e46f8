"""Which stretches of an answer in Markdown are code, which is shown and not rendered: fenced blocks and code spans.

It errs on one side: what some renderer might take for text is text. So a span counts within one line alone, not across the cells
of a table, and not behind a tag of HTML; a fence counts neither inside a block of HTML nor deeper than its list. (CommonMark
0.31, 4.5, 4.6 and 6.1.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})([^\n]*)")
_LIST = re.compile(r"([ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+)\S")
_OPENS_BLOCK = re.compile(
    r" {0,3}<(?:pre|script|style|textarea|!|\?)", re.I
)  # of HTML, that no blank line ends
_TAG = re.compile(r"<[a-zA-Z/!?]")
_TICKS = re.compile(r"`+")
Stretch = tuple[int, int]


@dataclass(slots=True)
class Blocks:
    """What the lines up to here have opened. `fence`: its signs; `indent`: of the list that a fence may stand in; `html`: a block
    of it goes on to the next blank line; `tagged`: so may a tag; `raw`: one goes on to who knows where."""

    fence: str = ""
    indent: int = 0
    html: bool = False
    tagged: bool = False
    raw: bool = False

    def advance(self, line: str, *, whole: bool = True) -> bool:
        """Take in the next line; whether it is code. Args: whole: its beginning was seen."""
        text = line.strip()
        if self.fence:
            return self._in_fence(line, text)
        if not text:
            self.html = self.tagged = False
            return False
        depth = len(line) - len(line.lstrip())
        opened = _FENCE.match(line) if whole else None
        if depth < self.indent:
            self.indent = 0
        if opened and self._may_open(opened):
            self.fence = opened[2]
            return False  # what stands behind the fence is looked at
        if whole and (item := _LIST.match(line)):
            self.indent = len(item[1])
        self.html |= whole and text.startswith("<")
        self.raw |= whole and _OPENS_BLOCK.match(line) is not None
        return False

    def _may_open(self, opened: re.Match[str]) -> bool:
        if self.html or self.raw or len(opened[1]) > self.indent + 3 or "\t" in opened[1]:
            return False
        return opened[2][0] == "~" or "`" not in opened[3]

    def _in_fence(self, line: str, text: str) -> bool:
        left = bool(text) and len(line) - len(line.lstrip()) < self.indent
        if left or (text.startswith(self.fence) and not text.strip(self.fence[0])):
            self.fence = ""
            if left:
                self.indent = 0
                return self.advance(line)
        return not left


def code_stretches(text: str, blocks: Blocks, *, whole: bool = True) -> Iterator[Stretch]:
    """In order. Args: blocks: at the beginning of the text; at its end afterwards. whole: the text begins a line."""
    place = 0
    while place < len(text):
        end = text.find("\n", place) + 1 or len(text)
        line, fenced = text[place:end], bool(blocks.fence)
        code = blocks.advance(line, whole=whole)
        if code:
            yield place, end
        elif not blocks.fence:
            yield from _spans(line, place, blocks, whole=whole and not fenced)
        place, whole = end, True


def _spans(line: str, place: int, state: Blocks, *, whole: bool) -> Iterator[Stretch]:
    """Runs of backticks and the next run as long as they are; leaves in `state` whether a tag may be open behind the line."""
    runs = (
        [match.span() for match in _TICKS.finditer(line)] if whole and not (state.tagged or state.raw) else []
    )
    following: dict[int, int] = {}
    partner = [0] * len(runs)
    for number in reversed(range(len(runs))):
        length = runs[number][1] - runs[number][0]
        partner[number] = following.get(length, -1)
        following[length] = number
    seen = number = 0
    while number < len(runs):
        start, _ = runs[number]
        if _TAG.search(line, seen, start):
            break
        close = partner[number]
        end = runs[close][1] if close > number else 0
        if end and line[start - 1 : start] != "\\" and "|" not in line[start:end]:
            yield place + start, place + end
            seen, number = end, close
        number += 1
    state.tagged |= _TAG.search(line, seen) is not None


def inside(place: int, stretches: list[Stretch]) -> bool:
    """Args: stretches: sorted, apart."""
    low, high = 0, len(stretches)
    while low < high:
        middle = (low + high) // 2
        if stretches[middle][1] <= place:
            low = middle + 1
        else:
            high = middle
    return low < len(stretches) and stretches[low][0] <= place
