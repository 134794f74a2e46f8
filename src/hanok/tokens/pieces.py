"""From ids back to bytes, and from bytes to text that never shows half a character."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence


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
