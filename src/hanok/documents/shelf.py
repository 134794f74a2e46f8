"""Indexes of collections, made from the database when they are first searched and kept until the collection changes.

Every process makes its own; the collection's version, read before each search, tells whether it still holds. So a file that
one process added is found by the next search of every other, and a deleted one by none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from hanok.documents import tables as t
from hanok.documents import words
from hanok.documents.files import coded_row, found_by, vector_rows
from hanok.documents.index import FileTerms, Index
from hanok.documents.records import Embedder
from hanok.errors import NotFoundError
from hanok.reporting import log
from hanok.store.database import Store

MOST_BYTES = 2 << 30  # of indexes that are kept; the one in use always is
Versions = tuple[tuple[str, int], ...]


class Shelf:
    """Indexes by the collections that they cover. Safe to call from several threads."""

    def __init__(self, store: Store, embedder: Embedder, *, most_bytes: int = MOST_BYTES) -> None:
        self._store, self._embedder, self._most_bytes = store, embedder, most_bytes
        self._indexes: OrderedDict[tuple[str, ...], tuple[Versions, Index]] = OrderedDict()
        self._lock = threading.Lock()

    def index(self, tenant: str, collection_ids: Sequence[str]) -> Index:
        """Of all files of the collections, as they are now.

        Raises:
            NotFoundError: a collection is unknown or another tenant's.
        """
        versions = self._versions(tenant, collection_ids)
        key = tuple(collection_id for collection_id, _ in versions)
        with self._lock:  # who comes while it is made waits for it
            known = self._indexes.get(key)
            if known is None or known[0] != versions:
                known = (versions, Index(self._load(key)))
                self._indexes[key] = known
            self._indexes.move_to_end(key)
            while (
                len(self._indexes) > 1 and sum(i.bytes for _, i in self._indexes.values()) > self._most_bytes
            ):
                self._indexes.popitem(last=False)
        return known[1]

    def _versions(self, tenant: str, collection_ids: Sequence[str]) -> Versions:
        wanted = sorted(set(collection_ids))
        query = select(t.collections.c.id, t.collections.c.version).where(
            t.collections.c.tenant == tenant, t.collections.c.id.in_(wanted)
        )
        with self._store.read() as connection:
            found = {row.id: row.version for row in connection.execute(query)}
        for collection_id in wanted:
            if collection_id not in found:
                raise NotFoundError(
                    f'no collection "{collection_id[:80]}" here', remedy="list the collections"
                )
        return tuple((collection_id, found[collection_id]) for collection_id in wanted)

    def _load(self, collection_ids: Sequence[str]) -> list[FileTerms]:
        """Passages that were kept under other rules or another embedder are looked at anew, and their vectors kept."""
        inside = select(t.members.c.file_id).where(t.members.c.collection_id.in_(collection_ids))
        p, v = t.passages.c, t.vectors.c
        mine = (v.file_id == p.file_id) & (v.number == p.number) & (v.embedder == self._embedder.name)
        query = (
            select(p.file_id, p.number, p.codes, p.often, p.words_version, v.vector)
            .outerjoin(t.vectors, mine)
            .where(p.file_id.in_(inside))
            .order_by(p.file_id, p.number)
        )
        rows_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
        with self._store.read() as connection:
            for row in connection.execute(query).mappings():
                rows_of[row["file_id"]].append(dict(row))
            stale = {
                file_id: _indexed(connection, file_id)
                for file_id, rows in rows_of.items()
                if any(row["vector"] is None or row["words_version"] != words.VERSION for row in rows)
            }
        for file_id, indexed in stale.items():
            self._renew(file_id, rows_of[file_id], indexed)
        return [_terms(file_id, rows) for file_id, rows in rows_of.items()]

    def _renew(self, file_id: str, rows: list[dict[str, Any]], indexed: Mapping[int, str]) -> None:
        for row in rows:
            if row["words_version"] != words.VERSION:
                row |= coded_row(indexed[row["number"]])
        missing = [row for row in rows if row["vector"] is None]
        if not missing:
            return
        log.info("%s: vectors of %d passages by %s", file_id, len(missing), self._embedder.name)
        numbers = [row["number"] for row in missing]
        made = vector_rows(self._embedder, file_id, numbers, [indexed[number] for number in numbers])
        for row, vector in zip(missing, made, strict=True):
            row["vector"] = vector["vector"]
        try:
            with self._store.write() as connection:
                connection.execute(insert(t.vectors), made)
        except IntegrityError:
            log.debug("%s: its vectors were kept, or the file deleted, meanwhile", file_id)


def _indexed(connection: Connection, file_id: str) -> dict[int, str]:
    """What each passage of a file is found by."""
    p = t.passages.c
    text = func.substr(t.texts.c.text, p.start + 1, p.end - p.start).label("text")
    query = (
        select(p.number, t.files.c.name, t.texts.c.title, p.heading, text)
        .join(t.files, t.files.c.id == p.file_id)
        .join(t.texts, (t.texts.c.file_id == p.file_id) & (t.texts.c.number == p.text))
        .where(p.file_id == file_id)
    )
    return {
        row.number: found_by(row.name, row.title, row.heading, row.text) for row in connection.execute(query)
    }


def _terms(file_id: str, rows: Sequence[Mapping[str, Any]]) -> FileTerms:
    codes = [np.frombuffer(row["codes"], "<u4") for row in rows]
    return FileTerms(
        file_id=file_id,
        numbers_P=np.array([row["number"] for row in rows], np.int32),
        lengths_P=np.array([len(one) for one in codes], np.int64),
        codes_N=np.concatenate(codes),
        often_N=np.concatenate([np.frombuffer(row["often"], np.uint8) for row in rows]),
        vectors_PD=np.stack([np.frombuffer(row["vector"], "<f2") for row in rows]).astype(np.float32),
    )
