"""Plain text, Markdown, WikiExtractor's `<doc>` files, HTML and PDF."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Iterator
from typing import IO

from hanok.data.readers.records import Record, Records, Skipped, UnreadableError

_DOC = re.compile(r"<doc\b(?P<attributes>[^>]*)>\s*$")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
WHOLE_FILE_LIMIT = 64 << 20  # of the formats that must be read whole


def read_text(stream: IO[str], max_characters: int) -> Records:
    """The whole text as one document, or, of a long one, paragraphs up to `max_characters` as documents of one group."""
    for part in paragraphs_up_to(stream, max_characters):
        if part.strip():
            yield Record(text=part)


def paragraphs_up_to(lines: Iterable[str], limit: int) -> Iterator[str]:
    """Text in parts of at most about `limit` characters, cut behind a blank line where there is one, else behind a line."""
    kept: list[str] = []
    size = blank = 0  # `blank`: number of kept lines up to and including the last blank one
    for line in lines:
        for start in range(0, max(1, len(line)), limit):  # a line may be longer than the limit
            piece = line[start : start + limit]
            if kept and size + len(piece) > limit:
                cut = blank if blank > len(kept) // 4 else len(kept)
                yield "".join(kept[:cut])
                kept = kept[cut:]
                size, blank = sum(map(len, kept)), 0
            kept.append(piece)
            size += len(piece)
        if not line.strip():
            blank = len(kept)
    if kept:
        yield "".join(kept)


def looks_like_wiki(head: str) -> bool:
    return _DOC.match(head.lstrip().split("\n", 1)[0]) is not None


def read_wiki(stream: IO[str], max_characters: int) -> Records:
    """Articles between `<doc id="7" url="..." title="...">` and `</doc>`; the title stands on the first line already."""
    lines: list[str] = []
    attributes: dict[str, str] | None = None
    for line in stream:
        opening = _DOC.match(line) if line.startswith("<doc") else None
        if opening is not None:
            attributes, lines = dict(_ATTRIBUTE.findall(opening["attributes"])), []
        elif line.startswith("</doc>") and attributes is not None:
            meta = {key: attributes[key] for key in ("title", "url") if attributes.get(key)}
            name = attributes.get("id", "")
            for part in paragraphs_up_to(lines, max_characters):
                yield Record(text=part.strip(), group=name, id=name, meta=meta)
            attributes = None
        elif attributes is not None:
            lines.append(line)
        elif line.strip():
            yield Skipped("text outside <doc> ... </doc>")
    if attributes is not None:
        yield Skipped("the last article is cut off: no </doc>")


def read_html(stream: IO[bytes], name: str) -> Records:
    """The main text without menus and footers."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    page = trafilatura.bare_extraction(whole(stream, name), with_metadata=True, include_comments=False)
    text = getattr(page, "text", None)
    if not text:
        raise UnreadableError(f"{name}: no main text is found in the page", remedy="")
    meta = {key: value for key in ("title", "author", "date") if (value := getattr(page, key, None))}
    yield Record(text=text, meta=meta)


def read_pdf(stream: IO[bytes], name: str) -> Records:
    """The text layer of all pages as one document."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(whole(stream, name)))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError(f"{name} is encrypted", remedy="save it without a password")
        pages = [page.extract_text() for page in reader.pages]
    except UnreadableError:
        raise
    except (PyPdfError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(
            f"{name} is no readable PDF ({type(error).__name__}: {error})", remedy=""
        ) from error
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    if not text:
        raise UnreadableError(
            f"{name}: {len(pages)} pages without a text layer", remedy="recognise its text (OCR) first"
        )
    title = reader.metadata.title if reader.metadata else None
    yield Record(text=text, meta={"pages": len(pages), **({"title": title} if title else {})})


def whole(stream: IO[bytes], name: str) -> bytes:
    """All bytes of a format that cannot be streamed."""
    data = stream.read(WHOLE_FILE_LIMIT + 1)
    if len(data) > WHOLE_FILE_LIMIT:
        raise UnreadableError(
            f"{name} is larger than {WHOLE_FILE_LIMIT >> 20} MiB", remedy="split it into smaller files"
        )
    return data
