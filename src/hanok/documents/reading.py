"""A file's bytes into texts, by the readers of step 1, with a limit and one message for everything that can be wrong."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from hanok.data.config import SourceConfig
from hanok.data.normalise import normalise
from hanok.data.readers.encoding import describe
from hanok.data.readers.files import Source
from hanok.data.readers.formats import read
from hanok.data.readers.records import Record, Skipped, UnreadableError
from hanok.errors import InputError

MOST_BYTES = 32 << 20
MOST_CHARACTERS = 20_000_000  # of all texts of a file: a small PDF can hold a large one
MOST_NAME = 200
_PART = 1_000_000  # bytes of one text; a longer one is cut at a paragraph
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a file, normalised; passages are offsets into it."""

    title: str
    text: str


def clean_name(name: str) -> str:
    """The last part of a path without characters that cannot be seen, at most `MOST_NAME` characters; the ending stays.

    Raises:
        InputError: nothing is left of it.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    last = " ".join("".join(c for c in last if c.isprintable() or c.isspace()).split()).strip(" .")
    if not last:
        raise InputError(f"{name[:80]!r} is no file name", remedy='name the file, for example "handbook.pdf"')
    base, dot, ending = last.rpartition(".")
    if len(last) > MOST_NAME and dot and len(ending) <= 10:
        return f"{base[: MOST_NAME - len(ending) - 1]}.{ending}"
    return last[:MOST_NAME].rstrip(" .")


def read_texts(name: str, content: bytes, *, most_bytes: int = MOST_BYTES) -> list[Text]:
    """The texts of a file.

    Raises:
        InputError: too large, no text in it, or in no format or encoding that can be read.
    """
    if len(content) > most_bytes:
        raise InputError(
            f"{name} has {len(content):,} bytes, and a document may have {most_bytes:,}",
            remedy="split it into smaller files",
        )
    if not content:
        raise InputError(f"{name} is empty", remedy="upload a file with text in it")
    if name.lower().endswith(_ARCHIVES):
        raise InputError(f"{name} is an archive", remedy="unpack it and add the files in it")
    stream = cast(io.BufferedReader, io.BufferedReader(io.BytesIO(content), 1 << 16))
    try:
        records, _, encoding = read(Source(name, stream), SourceConfig(path=name), _PART)
    except RecursionError as error:
        raise InputError(f"{name} is nested too deeply", remedy="save it in a simpler form") from error
    reasons: list[str] = []
    try:
        found = list(_texts(name, records, reasons))
    except UnicodeDecodeError as error:
        raise UnreadableError(describe(error, name, encoding), remedy="save it as UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{name} is nested too deeply", remedy="save it in a simpler form") from error
    if not found:
        why = f" ({reasons[0]})" if reasons else ""
        raise InputError(f"{name} holds no text{why}", remedy="upload a file with text in it")
    return found


def _texts(name: str, records: Iterator[Record | Skipped], reasons: list[str]) -> Iterator[Text]:
    size = 0
    for record in records:
        if isinstance(record, Skipped):
            reasons.append(record.reason)
            continue
        text = record.text if record.text is not None else _conversation(record.messages or ())
        text, _ = normalise(_whole_characters(text))
        if not any(character.isalnum() for character in text):
            reasons.append("it has no letter and no digit")
            continue
        size += len(text)
        if size > MOST_CHARACTERS:
            raise InputError(
                f"{name} holds more than {MOST_CHARACTERS:,} characters", remedy="split it into smaller files"
            )
        title, _ = normalise(_whole_characters(str(record.meta.get("title") or "")[:500]))
        yield Text(" ".join(title.split()), text)


def _conversation(messages: Sequence[dict[str, object]]) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _whole_characters(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can hold and no encoding can."""
    return text.encode("utf-8", "replace").decode("utf-8")
