"""A text in windows that are judged one by one: sentences, or stretches of a length. Where one ends depends on the text alone, so
a streamed answer and a whole one are judged in the same windows, each of them once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from hanok.guard.verdicts import Finding

OVERLAP = 256  # characters before a window that are shown with it
_END = re.compile(r"[.!?。！？…][\"'”’)\]]{0,4}\s+|\n+")
_BLANK = re.compile(r"\s")
Judge = Callable[[str, str], Iterable[Finding]]
"""What stands before a window, and the window, to findings with spans of the window."""


def window_end(text: str, start: int, least: int, most: int | None, *, last: bool) -> int | None:
    """Where the window that begins at `start` ends: behind the first sentence that ends after `least` characters, or else behind
    a blank before `most`; None if that is not known yet. Args: most: None for a window that only the end of the text ends."""
    if most is not None:
        ended = _END.search(text, start + least, min(len(text), start + most + 1))
        if ended is not None and ended.end() <= start + most and (ended.end() < len(text) or last):
            return ended.end()
        if len(text) - start > most:
            blanks = [match.end() for match in _BLANK.finditer(text, start + most // 2, start + most)]
            return blanks[-1] if blanks else start + most
    return len(text) if last and len(text) > start else None


def windows(text: str, least: int, most: int) -> Iterator[tuple[int, int]]:
    """Of a whole text."""
    start = 0
    while (end := window_end(text, start, least, most, last=True)) is not None:
        yield start, end
        start = end


class Windowed:
    """A follower of a channel (`hanok.guard.filter`): text is held back until its window was judged."""

    def __init__(self, judge: Judge, *, least: int, most: int | None, before: str = "") -> None:
        self._judge, self._least, self._most = judge, least, most
        self._past = before[-OVERLAP:]
        self._judged = 0  # characters of what is held back
        self._found: list[Finding] = []

    def read(self, text: str, *, last: bool) -> tuple[int, list[Finding]]:
        while (end := window_end(text, self._judged, self._least, self._most, last=last)) is not None:
            start, self._judged = self._judged, end
            before = (self._past + text[:start])[-OVERLAP:]
            found = self._judge(before, text[start:end])
            self._found += [replace(one, start=start + one.start, end=start + one.end) for one in found]
        return self._judged, self._found

    def passed(self, text: str) -> None:
        gone = len(text)
        self._past = (self._past + text)[-OVERLAP:]
        self._judged = max(0, self._judged - gone)
        self._found = [
            replace(one, start=max(0, one.start - gone), end=one.end - gone)
            for one in self._found
            if one.end > gone
        ]
