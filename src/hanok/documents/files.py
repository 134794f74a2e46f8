"""A tenant's files: bytes in, texts and passages kept; whole or not at all.

Everything that can fail about a file (reading, cutting, embedding) happens before the one transaction that keeps it.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from hanok.documents import tables as t
from hanok.documents import words
from hanok.documents.passages import cut
from hanok.documents.reading import MOST_BYTES, clean_name, read_texts
from hanok.documents.records import Embedder, Embedding, File, Found
from hanok.errors import InputError, NotFoundError
from hanok.store.database import Store
from hanok.store.tenancy import check_may_write

MOST_PASSAGES = 100_000
_COLUMNS = (
    t.files.c.id, t.files.c.name, t.files.c.sha256, t.files.c.bytes, t.files.c.passages, t.files.c.purpose, t.files.c.created,
)  # fmt: skip


class Files:
    """Safe to call from several threads and processes."""

    def __init__(self, store: Store, embedding: Embedding, *, most_bytes: int = MOST_BYTES) -> None:
        self._store, self._embedding, self.most_bytes = store, embedding, most_bytes

    def add(self, tenant: str, name: str, content: bytes, *, purpose: str = "assistants") -> File:
        """Keep a file. The same bytes again are the same file, whatever they are called.

        Raises:
            InputError: it cannot be read, holds no text, or is too large; the tenant was deleted.
        """
        name, sha256 = clean_name(name), hashlib.sha256(content).hexdigest()
        if (known := self._by_hash(tenant, sha256)) is not None:
            return known
        file: dict[str, Any] = {
            "id": f"file-{uuid.uuid4().hex[:24]}", "tenant": tenant, "name": name, "sha256": sha256, "bytes": len(content),
            "purpose": purpose[:64], "created": time.time(), "content": content,
        }  # fmt: skip
        texts, passages, vectors = self._rows(file["id"], name, content)
        for last in (False, True):
            try:
                with self._store.write() as connection:
                    check_may_write(connection, tenant)
                    connection.execute(insert(t.files), {**file, "passages": len(passages)})
                    connection.execute(insert(t.texts), texts)
                    connection.execute(insert(t.passages), passages)
                    connection.execute(insert(t.vectors), vectors)
                    return file_of(connection, tenant, file["id"])
            except IntegrityError:  # somebody else kept the same bytes meanwhile
                if (known := self._by_hash(tenant, sha256)) is not None:
                    return known
                if last:
                    raise
        raise AssertionError  # or deleted them again, and then they are kept the second time

    def get(self, tenant: str, file_id: str) -> File:
        """Raises NotFoundError for an id that is unknown or another tenant's; so do all methods that take one."""
        with self._store.read() as connection:
            return file_of(connection, tenant, file_id)

    def list(self, tenant: str) -> list[File]:
        """The newest first."""
        query = select(*_COLUMNS).where(t.files.c.tenant == tenant)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(t.files.c.created.desc(), t.files.c.id)).mappings()
            return [File(**row) for row in rows]

    def content(self, tenant: str, file_id: str) -> bytes:
        query = select(t.files.c.content).where(t.files.c.tenant == tenant, t.files.c.id == file_id)
        with self._store.read() as connection:
            content = connection.execute(query).scalar()
        if content is None:
            raise _unknown(file_id)
        return bytes(content)

    def delete(self, tenant: str, file_id: str) -> None:
        """From every collection too."""
        with self._store.write() as connection:
            file_of(connection, tenant, file_id)
            delete_file(connection, file_id)

    def passage(self, tenant: str, file_id: str, number: int) -> Found:
        """One passage, as a citation names it."""
        with self._store.read() as connection:
            file = file_of(connection, tenant, file_id)
            found = passages_of(connection, [(file_id, number)])
        if not found:
            raise NotFoundError(
                f"{file_id} has no passage {number}", remedy=f"its passages are 0 to {file.passages - 1}"
            )
        return found[file_id, number]

    def text(self, tenant: str, file_id: str) -> list[str]:
        """The texts that were read from the file; passages are offsets into them."""
        with self._store.read() as connection:
            file_of(connection, tenant, file_id)
            query = select(t.texts.c.text).where(t.texts.c.file_id == file_id).order_by(t.texts.c.number)
            return list(connection.execute(query).scalars())

    def _by_hash(self, tenant: str, sha256: str) -> File | None:
        query = select(*_COLUMNS).where(t.files.c.tenant == tenant, t.files.c.sha256 == sha256)
        with self._store.read() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else File(**row)

    def _rows(self, file_id: str, name: str, content: bytes) -> tuple[list[dict[str, Any]], ...]:
        texts, passages, indexed = [], [], []
        for text_number, text in enumerate(read_texts(name, content, most_bytes=self.most_bytes)):
            texts.append({"file_id": file_id, "number": text_number, "title": text.title, "text": text.text})
            for passage in cut(text.text):
                indexed.append(
                    found_by(name, text.title, passage.heading, text.text[passage.start : passage.end])
                )
                passages.append(
                    {
                        "file_id": file_id, "number": len(passages), "text": text_number, "start": passage.start,
                        "end": passage.end, "heading": passage.heading, **coded_row(indexed[-1]),
                    }
                )  # fmt: skip
            if len(passages) > MOST_PASSAGES:
                raise InputError(
                    f"{name} has more than {MOST_PASSAGES:,} passages", remedy="split it into smaller files"
                )
        with self._embedding.now() as embedder:
            return texts, passages, vector_rows(embedder, file_id, range(len(indexed)), indexed)


def found_by(name: str, title: str, heading: str, text: str) -> str:
    """What a passage is found by: its words, and what it stands under."""
    return f"{name.rpartition('.')[0] or name}\n{title}\n{heading}\n{text}"


def coded_row(indexed: str) -> dict[str, Any]:
    codes, often = words.counted(indexed)
    return {
        "codes": codes.astype("<u4").tobytes(),
        "often": often.tobytes(),
        "words_version": words.VERSION,
    }


def vector_rows(
    embedder: Embedder, file_id: str, numbers: Sequence[int], indexed: Sequence[str]
) -> list[dict[str, Any]]:
    vectors_PD = np.asarray(embedder.embed(indexed), np.float32)
    lengths_P1 = np.linalg.norm(vectors_PD, axis=1, keepdims=True)
    vectors_PD = (vectors_PD / np.maximum(lengths_P1, 1e-9)).astype("<f2")
    return [
        {"file_id": file_id, "number": number, "embedder": embedder.name, "vector": vector.tobytes()}
        for number, vector in zip(numbers, vectors_PD, strict=True)
    ]


def file_of(connection: Connection, tenant: str, file_id: str, *, held: bool = False) -> File:
    """Args: held: nobody deletes it before this transaction ends."""
    query = select(*_COLUMNS).where(t.files.c.tenant == tenant, t.files.c.id == file_id)
    if held:
        query = query.with_for_update(read=True, key_share=True)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise _unknown(file_id)
    return File(**row)


def delete_file(connection: Connection, file_id: str) -> None:
    inside = select(t.members.c.collection_id).where(t.members.c.file_id == file_id)
    holding = t.collections.c.id.in_(inside)
    # in one order for everybody, so that no two wait for each other
    connection.execute(
        select(t.collections.c.id).where(holding).order_by(t.collections.c.id).with_for_update()
    )
    connection.execute(update(t.collections).where(holding).values(version=t.collections.c.version + 1))
    connection.execute(delete(t.files).where(t.files.c.id == file_id))  # the rest goes with it


def passages_of(connection: Connection, wanted: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Found]:
    """The passages that there are of those wanted; the caller has seen to it that the tenant may read the files."""
    p = t.passages.c
    query = (
        select(
            p.file_id, t.files.c.name, p.number, p.text.label("text_number"), p.start, p.end, p.heading,
            func.substr(t.texts.c.text, p.start + 1, p.end - p.start).label("text"),
        )
        .join(t.files, t.files.c.id == p.file_id)
        .join(t.texts, (t.texts.c.file_id == p.file_id) & (t.texts.c.number == p.text))
        .where(tuple_(p.file_id, p.number).in_(wanted))
    )  # fmt: skip
    found = [Found(**row) for row in connection.execute(query).mappings()]
    return {(one.file_id, one.number): one for one in found}


def _unknown(file_id: str) -> NotFoundError:
    return NotFoundError(f'no file "{file_id[:80]}" here', remedy="list the files for their ids")
