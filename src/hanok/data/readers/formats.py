"""Which reader a stream goes to: by what the source says, else by the name's ending and the first bytes."""

from __future__ import annotations

from typing import IO

from hanok.data.config import SourceConfig
from hanok.data.readers import chats, tables, texts
from hanok.data.readers.encoding import SAMPLE, decode
from hanok.data.readers.files import Source
from hanok.data.readers.records import Records, UnreadableError

_BY_SUFFIX = {
    ".txt": "text", ".text": "text", ".log": "text", ".md": "markdown", ".markdown": "markdown", ".rst": "markdown",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_NOT_TEXT = {
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp3", ".wav", ".mp4", ".avi", ".mov", ".exe", ".so", ".dll",
    ".pyc", ".ttf", ".otf", ".woff", ".woff2", ".docx", ".xlsx", ".pptx", ".hwp", ".hwpx", ".7z", ".rar",
}  # fmt: skip
_MAGIC = ((b"%PDF-", "pdf"), (b"PAR1", "parquet"))


def read(source: Source, config: SourceConfig, max_document_bytes: int) -> tuple[Records, str, str]:
    """The documents of one stream, the format, and the encoding ("" for binary formats).

    Raises:
        UnreadableError: not a format that can be read, or not in the encoding; also while the documents are drawn.
    """
    stream, head = source.stream, source.stream.peek(SAMPLE)
    form = config.format
    if form == "auto":
        if source.suffix in _NOT_TEXT:
            raise UnreadableError(f"{source.name}: {source.suffix} is no text format", remedy="")
        form = _BY_SUFFIX.get(source.suffix, "")
    if config.format == "auto":
        form = next((name for magic, name in _MAGIC if head.startswith(magic)), form)
    if form == "pdf":
        return texts.read_pdf(stream, source.name), form, ""
    if form == "html":
        return texts.read_html(stream, source.name), form, ""
    if form == "parquet":
        return tables.read_parquet(stream, config, source.name), form, ""
    text, encoding = decode(stream, config.encoding, source.name)
    return _read_text(text, form, source, config, max_document_bytes), form or "text", encoding


def _read_text(
    stream: IO[str], form: str, source: Source, config: SourceConfig, max_document_bytes: int
) -> Records:
    if form == "jsonl":
        return tables.read_jsonl(stream, config)
    if form == "json":
        return tables.read_json(stream, config, source.name)
    if form in ("csv", "tsv"):
        return tables.read_csv(stream, config, "\t" if form == "tsv" else ",")
    limit = max(1, max_document_bytes // 2)  # characters: Korean ones have three bytes, Latin ones one
    if form == "wiki":
        return texts.read_wiki(stream, limit)
    if form == "chat-log":
        return chats.read_kakao(stream)
    return _sniffed(stream, config, limit)


def _sniffed(stream: IO[str], config: SourceConfig, limit: int) -> Records:
    """Text whose first lines may show that it is something else."""
    first: list[str] = []
    size = 0
    while size < 4096 and len(first) < 40 and (line := stream.readline(1 << 20)):
        first.append(line)
        size += len(line)
    head = "".join(first)
    lines = _Lines(first, stream)
    if config.format == "auto" and texts.looks_like_wiki(head):
        yield from texts.read_wiki(lines, limit)  # type: ignore[arg-type]
    elif config.format == "auto" and chats.looks_like_kakao(head):
        yield from chats.read_kakao(lines)  # type: ignore[arg-type]
    else:
        yield from texts.read_text(lines, limit)  # type: ignore[arg-type]


class _Lines:
    """Lines that were read already, then the stream's."""

    def __init__(self, first: list[str], stream: IO[str]) -> None:
        self._first, self._stream = first, stream

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from self._first
        yield from self._stream
