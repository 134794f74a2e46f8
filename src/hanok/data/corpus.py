"""The corpus artefact: documents in Parquet, streamed in and out in bounded memory.

`documents-00000.parquet` ... with the columns of `SCHEMA`; `corpus.json` with the counts. A document has either
`text` or `messages` (OpenAI chat form, stored as JSON). Documents of one `group` never part company in a split.
`meta` keys that stages honour: "pii": "exempt", "clean": "exempt", "split": "train" | "validation" | "test".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanok.artefacts import write_json
from hanok.errors import ArtefactError

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "messages", "source", "licence", "group", "lang", "meta")]
)
ROWS_PER_BATCH = 2_000
CHARACTERS_PER_BATCH = 8_000_000
CHARACTERS_PER_FILE = 200_000_000


@dataclass(slots=True, kw_only=True)
class Document:
    """One text or one conversation, with where it comes from."""

    id: str
    source: str
    licence: str
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    group: str = ""
    lang: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.text is None) != (self.messages is None), "a document has either text or messages"
        self.group = self.group or self.id

    def content(self) -> str:
        """The text, or the contents of all messages, one per line: what filters and counts look at."""
        if self.text is not None:
            return self.text
        return "\n".join(str(message.get("content") or "") for message in self.messages or [])

    def to_row(self) -> dict[str, str | None]:
        return {
            "id": self.id, "text": self.text, "source": self.source, "licence": self.licence, "group": self.group,
            "messages": None if self.messages is None else json.dumps(self.messages, ensure_ascii=False),
            "lang": self.lang, "meta": json.dumps(self.meta, ensure_ascii=False),
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Document:
        messages = row.get("messages")
        return cls(
            id=row["id"], text=row["text"], source=row["source"], licence=row["licence"], group=row["group"],
            messages=None if messages is None else json.loads(messages), lang=row["lang"],
            meta=json.loads(row["meta"] or "{}"),
        )  # fmt: skip


class CorpusWriter:
    """Writes documents below `directory`; use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.documents = self.characters = 0
        self.by_source: Counter[str] = Counter()
        self.licences: dict[str, str] = {}
        self._rows: list[dict[str, str | None]] = []
        self._pending = self._in_file = 0
        self._file: pq.ParquetWriter | None = None
        self._files = 0

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is None:
            self.close()

    def write(self, document: Document) -> None:
        size = len(document.content())
        self.documents += 1
        self.characters += size
        self.by_source[document.source] += 1
        self.licences[document.source] = document.licence
        self._rows.append(document.to_row())
        self._pending += size
        if len(self._rows) >= ROWS_PER_BATCH or self._pending >= CHARACTERS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        self._flush(last=True)
        write_json(
            self.directory / "corpus.json",
            {
                "documents": self.documents,
                "characters": self.characters,
                "sources": {
                    name: {"documents": count, "licence": self.licences[name]}
                    for name, count in sorted(self.by_source.items())
                },
            },
        )

    def _flush(self, *, last: bool = False) -> None:
        if self._rows or (last and self._files == 0):
            if self._file is None:
                path = self.directory / f"documents-{self._files:05d}.parquet"
                self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
                self._files += 1
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._in_file += self._pending
        self._rows, self._pending = [], 0
        if self._file is not None and (last or self._in_file >= CHARACTERS_PER_FILE):
            self._file.close()
            self._file, self._in_file = None, 0


def corpus_files(directory: Path) -> list[Path]:
    """Raises ArtefactError where there are none."""
    files = sorted(directory.glob("documents-*.parquet"))
    if not files:
        raise ArtefactError(
            f"no documents-*.parquet in {directory}", remedy="give a corpus that `hanok data` wrote"
        )
    return files


def iter_tables(directory: Path, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Batches of the corpus as Arrow tables, in order, in bounded memory."""
    for file in corpus_files(directory):
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
                yield pa.Table.from_batches([batch])


def read_corpus(directory: Path) -> Iterator[Document]:
    """All documents, in order."""
    for batch in iter_tables(directory):
        for row in batch.to_pylist():
            yield Document.from_row(row)


def count_documents(directory: Path) -> int:
    """From the files' footers alone."""
    return sum(pq.read_metadata(file).num_rows for file in corpus_files(directory))
