"""Guesses from the text itself: what followed the last tokens when they stood there before (prompt lookup decoding,
github.com/apoorvumang/prompt-lookup-decoding). The longest match first, of equal ones the latest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hanok.engine.running import Running

SHORTEST, LONGEST = 2, 4  # tokens that must be alike, and beyond which more make no difference


class Found(NamedTuple):
    """Args: match: tokens before the place that are alike."""

    tokens: list[int]
    match: int


class PromptLookup:
    """The texts of running answers, as arrays that grow with them."""

    def __init__(self) -> None:
        self._texts: dict[Running, np.ndarray] = {}
        self._lengths: dict[Running, int] = {}

    def propose(self, running: Running, limit: int) -> Found | None:
        """At most `limit` tokens; None where the last ones are new."""
        text = self._text(running)
        place, match = _latest_match(text)
        if not match:
            return None
        back = len(text) - place  # a text that repeats itself goes on repeating: what is guessed is read on
        tokens = text[place : place + limit].tolist()
        while len(tokens) < limit:
            tokens.append(tokens[-back] if len(tokens) >= back else int(text[place + len(tokens)]))
        return Found(tokens, match)

    def release(self, running: Running) -> None:
        self._texts.pop(running, None)
        self._lengths.pop(running, None)

    def _text(self, running: Running) -> np.ndarray:
        known, length = self._lengths.get(running, 0), running.length
        array = self._texts.get(running)
        if array is None or len(array) < length:
            grown = np.empty(max(256, 2 * length), dtype=np.int32)
            if array is not None:
                grown[:known] = array[:known]
            array = self._texts[running] = grown
        array[known:length] = running.tokens(known, length)
        self._lengths[running] = length
        return array[:length]


def _latest_match(text: np.ndarray) -> tuple[int, int]:
    """The place behind the latest of the longest matches, and the match's length (0: there is none)."""
    length, match, found = len(text), 0, np.empty(0, dtype=np.intp)
    ends = np.flatnonzero(text[:-1] == text[-1])
    for size in range(2, min(LONGEST, length - 1) + 1):
        ends = ends[ends >= size - 1]
        ends = ends[text[ends - size + 1] == text[length - size]]
        if not len(ends):
            break
        match, found = size, ends
    return (int(found[-1]) + 1, match) if match >= SHORTEST else (0, 0)
