"""Which encoding a file is in, and its text as a stream."""

from __future__ import annotations

import codecs
import io
from typing import IO

from hanok.data.readers.records import UnreadableError

SAMPLE = 1 << 16
_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def decode(stream: io.BufferedReader, encoding: str, name: str) -> tuple[IO[str], str]:
    """The text stream and the encoding that was found or told.

    Raises:
        UnreadableError: binary data, no encoding fits, or Python knows no such encoding.
    """
    head = stream.peek(SAMPLE)
    if encoding == "auto":
        encoding = guess(head, name)
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise UnreadableError(
            f'encoding = "{encoding}": Python knows no such encoding', remedy='try "cp949"'
        ) from error
    return io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline=None), encoding


def guess(head: bytes, name: str) -> str:
    """By its byte order mark, else UTF-8 if the bytes are that, else CP949 if they read as Korean, else Windows-1252."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:  # UTF-16 without a mark (each space has a zero byte), or binary
        for encoding in ("utf-16-le", "utf-16-be"):
            if _reads_as_text(head[: len(head) // 2 * 2], encoding):
                return encoding
    if b"\0" in head or sum(byte < 9 or 13 < byte < 32 for byte in head) > len(head) // 20:
        raise UnreadableError(
            f"{name} holds binary data", remedy="only text can be read; name the format if it is another"
        )
    if _decodes(head, "utf-8"):
        return "utf-8"
    if _decodes(head, "cp949") and _share_of_hangul(head.decode("cp949", "ignore")) > 0.2:
        return "cp949"
    text = head.decode("cp1252", "replace")
    if "\ufffd" not in text and sum(c.isalpha() or c.isspace() for c in text) > 0.75 * len(text):
        return "cp1252"
    raise UnreadableError(
        f"{name} is in no encoding that can be recognised",
        remedy='say which one, for example encoding = "cp949"',
    )


def describe(error: UnicodeDecodeError, name: str, encoding: str) -> str:
    return f"{name} is not {encoding}: byte 0x{error.object[error.start]:02x} ({error.reason})"


def _decodes(head: bytes, encoding: str) -> bool:
    """Whether it decodes, but for a character that the sample's end may have cut."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _reads_as_text(head: bytes, encoding: str) -> bool:
    text = head.decode(encoding, "replace")
    good = sum(c.isprintable() or c in "\r\n\t" for c in text)
    return "\ufffd" not in text and "\0" not in text and good > 0.95 * len(text)


def _share_of_hangul(text: str) -> float:
    letters = [c for c in text if ord(c) > 127]
    return sum("가" <= c <= "힣" for c in letters) / max(1, len(letters))
