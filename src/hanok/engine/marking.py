"""Which tokens of an answer carry the watermark, and behind what context each is coloured.

Not marked: the first `width` tokens, the second token of a context, what stands in a fenced block of code or in a call of a
tool. Greedy answers and those with a structure get no `Marker` at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hanok.tokens.control import TOOL_CALL, TOOL_CALL_END
from hanok.tokens.tokenizer import Tokenizer
from hanok.tokens.watermark import Context, Watermark

_FENCE = 3  # backticks in a row


class Mark(NamedTuple):
    """How the next token is coloured."""

    watermark: Watermark
    context: Context


class _Region(NamedTuple):
    """Where a text stands. `backticks`: how many it ends with."""

    in_code: bool = False
    in_call: bool = False
    backticks: int = 0

    @property
    def plain(self) -> bool:
        return not (self.in_code or self.in_call or self.backticks)  # a fence may be under way


class Marker:
    """Of one answer; told of every token of it."""

    def __init__(self, watermark: Watermark, tokenizer: Tokenizer) -> None:
        self._watermark, self._tokenizer = watermark, tokenizer
        self._opens = tokenizer.special.get(TOOL_CALL)
        self._closes = tokenizer.special.get(TOOL_CALL_END)
        self._last: Context = ()
        self._seen: set[Context] = set()
        self._region = _Region()

    def push(self, token: int) -> None:
        if len(self._last) == self._watermark.width:
            self._seen.add(self._last)
        self._last = self._behind(self._last, token)
        self._region = self._after(self._region, token)

    def mark(self, guesses: Sequence[int]) -> Mark | None:
        """Of the token behind so many guesses, should they hold; None: it is not marked."""
        last, region, guessed = self._last, self._region, set[Context]()
        for token in guesses:
            guessed.add(last)
            last, region = self._behind(last, token), self._after(region, token)
        known = last in self._seen or last in guessed
        marked = len(last) == self._watermark.width and region.plain and not known
        return Mark(self._watermark, last) if marked else None

    def _behind(self, last: Context, token: int) -> Context:
        return (*last, token)[-self._watermark.width :]

    def _after(self, region: _Region, token: int) -> _Region:
        if token == self._opens or token == self._closes:
            return region._replace(in_call=token == self._opens, backticks=0)
        written = self._tokenizer.token_bytes(token)
        if b"`" not in written:
            return region._replace(backticks=0) if region.backticks and written else region
        in_code, run = region.in_code, region.backticks
        for byte in written:
            run = run + 1 if byte == ord("`") else 0
            in_code ^= run == _FENCE  # a longer run is one fence
        return region._replace(in_code=in_code, backticks=run)
