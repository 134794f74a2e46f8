"""From ids back to bytes, and from bytes to text that never shows half a character."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import overload


def byte_of_character() -> dict[str, int]:
    """The byte-level alphabet of GPT-2 (its `bytes_to_unicode`, inverted): printable bytes stand for themselves,
    the other 68 are moved to U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def character_of_byte() -> list[str]:
    """The same alphabet by byte."""
    inverted = {byte: character for character, byte in byte_of_character().items()}
    return [inverted[byte] for byte in range(256)]


class Pieces(Sequence[bytes]):
    """The bytes that each id stands for: 150,000 of them in two megabytes or three, where as many objects would take ten.

    Args:
        data: of all ids, one behind the other. lengths: of each.
    """

    def __init__(self, data: bytes, lengths: Sequence[int]) -> None:
        self._data = data
        self._starts = array("I", accumulate(lengths, initial=0))
        assert self._starts[-1] == len(data)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, token: int) -> bytes: ...
    @overload
    def __getitem__(self, token: slice) -> Sequence[bytes]: ...
    def __getitem__(self, token: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(token, slice):
            return [self[n] for n in range(*token.indices(len(self)))]
        if token < 0:
            raise IndexError(token)
        starts = self._starts
        return self._data[starts[token] : starts[token + 1]]

    def __iter__(self) -> Iterator[bytes]:
        data, starts = self._data, self._starts
        return (data[starts[n] : starts[n + 1]] for n in range(len(self)))

    def lengths(self) -> array[int]:
        """Of each piece."""
        starts = self._starts
        return array("I", (end - start for start, end in pairwise(starts)))

    def replaced(self, others: Mapping[int, bytes], *, size: int) -> Pieces:
        """With other bytes for some ids, and room for `size` ids or as many as there are."""
        data, lengths = [], self.lengths()
        lengths.extend([0] * (size - len(lengths)))
        last = 0
        for token in sorted(others):
            start, end = (self._starts[min(n, len(self))] for n in (token, token + 1))
            data += [self._data[last:start], others[token]]
            lengths[token], last = len(others[token]), end
        return Pieces(b"".join([*data, self._data[last:]]), lengths)


class StreamDecoder:
    """Text of a stream of ids. Bytes of an unfinished character wait; invalid bytes become U+FFFD.

    Args:
        strips_space: the text loses one space at its start, which encoding put there.
    """

    def __init__(self, pieces: Sequence[bytes], skip: Collection[int], *, strips_space: bool = False) -> None:
        self._pieces, self._skip, self._strips_space = pieces, skip, strips_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        text = "" if token in self._skip else self._utf8.decode(self._pieces[token])
        if text and self._strips_space:
            self._strips_space = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """What is left at the end of the stream: U+FFFD if a character stayed unfinished."""
        return self._utf8.decode(b"", final=True)
