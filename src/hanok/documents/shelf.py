"""Indexes of collections, made from the database when they are first searched and kept until the collection changes.

Every process makes its own; the collection's version, read before each search, tells whether it still holds. So a file that
one process added is found by the next search of every other, and a deleted one by none. An index is made anew where other files
are in the collection; what its owner says about the files is read again whenever anything changed.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from sqlalchemy import Connection, String, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from hanok.documents import tables as t
from hanok.documents import words
from hanok.documents.files import coded_row, found_by, vector_rows
from hanok.documents.filters import Attributes
from hanok.documents.index import FileTerms, Index
from hanok.documents.records import Embedder, Found
from hanok.errors import NotFoundError
from hanok.reporting import log
from hanok.store.database import Store

MOST_BYTES = 2 << 30  # of indexes that are kept; the one in use always is
Versions = tuple[tuple[str, int], ...]
_VERSIONS = select(t.collections.c.id, t.collections.c.version).where(
    t.collections.c.tenant == bindparam("tenant"),
    t.collections.c.id.in_(bindparam("wanted", expanding=True)),
)
_VERSION = select(t.collections.c.id, t.collections.c.version).where(
    t.collections.c.tenant == bindparam("tenant"), t.collections.c.id == bindparam("wanted")
)  # the same for one, which is quicker
_TEXTS = select(t.texts.c.number, t.texts.c.title, t.texts.c.text).where(
    t.texts.c.file_id == bindparam("file_id")
)
_P, _V = t.passages.c, t.vectors.c
_MINE = (
    (_V.file_id == _P.file_id)
    & (_V.number == _P.number)
    & (_V.embedder == bindparam("embedder", type_=String))
)
_PASSAGES = (
    select(
        _P.number, _P.text.label("text_number"), _P.start, _P.end, _P.heading, _P.codes, _P.often, _P.words_version, _V.vector,
    )
    .outerjoin(t.vectors, _MINE)
    .where(_P.file_id == bindparam("file_id"))
    .order_by(_P.number)
)  # fmt: skip
_OTHER_BYTES = 200  # of a passage in memory, beside its text
_State = tuple[Versions, str]  # what an index was made of: the collections' versions, the embedder's name


class _Turn:
    """Held by whoever makes the index of some collections."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Kept(NamedTuple):
    """A passage as it is kept, with its text."""

    number: int
    text_number: int
    start: int
    end: int
    heading: str
    text: str


@dataclass(slots=True)
class InCollections:
    """A file's name, and what is said of it, once for each collection that it is in."""

    name: str
    attributes: list[Attributes]


@dataclass(frozen=True, slots=True)
class Shelved:
    """What searches of some collections need; read only.

    Args:
        state: what it was made of. passages: by their places in the index. files: by id.
    """

    state: _State
    index: Index
    passages: Sequence[Kept]
    files: Mapping[str, InCollections]
    bytes: int

    def allowed(self, test: Callable[[Attributes], bool]) -> np.ndarray:
        """Whether each passage's file passes."""
        passed_F = np.array([any(map(test, self.files[one].attributes)) for one in self.index.file_ids], bool)
        return passed_F[self.index.files_P]

    def found(self, place: int) -> Found:
        kept, file_id = self.passages[place], self.index.file_ids[self.index.files_P[place]]
        return Found(
            file_id=file_id, name=self.files[file_id].name, number=kept.number, text_number=kept.text_number,
            start=kept.start, end=kept.end, heading=kept.heading, text=kept.text,
        )  # fmt: skip


class Shelf:
    """Indexes by the collections that they cover. Safe to call from several threads."""

    def __init__(self, store: Store, *, most_bytes: int = MOST_BYTES) -> None:
        self._store, self._most_bytes = store, most_bytes
        self._shelved: OrderedDict[tuple[str, ...], Shelved] = OrderedDict()
        self._lock = threading.Lock()  # of `_shelved`; held for a moment only
        self._making: WeakValueDictionary[tuple[str, ...], _Turn] = WeakValueDictionary()

    def get(self, tenant: str, collection_ids: Sequence[str], embedder: Embedder) -> Shelved:
        """Of all files of the collections, as they are now.

        Raises:
            NotFoundError: a collection is unknown or another tenant's.
        """
        versions = self._versions(tenant, collection_ids)
        key, state = tuple(collection_id for collection_id, _ in versions), (versions, embedder.name)
        known = self._known(key)
        if known is not None and known.state == state:
            return known
        with self._lock:
            turn = self._making.setdefault(key, _Turn())
        with turn.lock:  # who comes while it is made waits for it; searches of other collections do not
            known = self._known(key)
            if known is None or known.state != state:
                known = self._make(key, state, embedder, known)
                self._keep(key, known)
        return known

    def _known(self, key: tuple[str, ...]) -> Shelved | None:
        with self._lock:
            if key in self._shelved:
                self._shelved.move_to_end(key)
            return self._shelved.get(key)

    def _make(
        self, key: tuple[str, ...], state: _State, embedder: Embedder, before: Shelved | None
    ) -> Shelved:
        with self._store.read() as connection:
            files = _files(connection, key)
            if before is not None and before.state[1] == state[1] and before.files.keys() == files.keys():
                return replace(before, state=state, files=files)  # what is in a file never changes
            rows_of = {file_id: _rows(connection, file_id, embedder) for file_id in sorted(files)}
        for file_id, rows in rows_of.items():
            self._renew(file_id, files[file_id].name, rows, embedder)
        index = Index([_terms(file_id, rows) for file_id, rows in rows_of.items() if rows])
        passages = [_kept(row) for rows in rows_of.values() for row in rows]
        size = index.bytes + sum(sys.getsizeof(one.text) + _OTHER_BYTES for one in passages)
        return Shelved(state, index, passages, files, size)

    def _keep(self, key: tuple[str, ...], shelved: Shelved) -> None:
        with self._lock:
            self._shelved[key] = shelved
            self._shelved.move_to_end(key)
            total = sum(one.bytes for one in self._shelved.values())
            while len(self._shelved) > 1 and total > self._most_bytes:
                _, oldest = self._shelved.popitem(last=False)
                total -= oldest.bytes

    def _versions(self, tenant: str, collection_ids: Sequence[str]) -> Versions:
        wanted = sorted(set(collection_ids))
        query, ids = (_VERSION, wanted[0]) if len(wanted) == 1 else (_VERSIONS, wanted)
        with self._store.read() as connection:
            rows = connection.execute(query, {"tenant": tenant, "wanted": ids}).all()
        found = {row.id: row.version for row in rows}
        for collection_id in wanted:
            if collection_id not in found:
                raise NotFoundError(
                    f'no collection "{collection_id[:80]}" here', remedy="list the collections"
                )
        return tuple((collection_id, found[collection_id]) for collection_id in wanted)

    def _renew(self, file_id: str, name: str, rows: Sequence[dict[str, Any]], embedder: Embedder) -> None:
        """Passages that were kept under other rules or another embedder are looked at anew, and their vectors kept."""
        for row in rows:
            if row["words_version"] != words.VERSION:
                row |= coded_row(_found_by(name, row))
        missing = [row for row in rows if row["vector"] is None]
        if not missing:
            return
        log.info("%s: vectors of %d passages by %s", file_id, len(missing), embedder.name)
        numbers = [row["number"] for row in missing]
        made = vector_rows(embedder, file_id, numbers, [_found_by(name, row) for row in missing])
        for row, vector in zip(missing, made, strict=True):
            row["vector"] = vector["vector"]
        try:
            with self._store.write() as connection:
                connection.execute(insert(t.vectors), made)
        except IntegrityError:
            log.debug("%s: its vectors were kept, or the file deleted, meanwhile", file_id)


def _files(connection: Connection, collection_ids: Sequence[str]) -> dict[str, InCollections]:
    query = (
        select(t.members.c.file_id, t.files.c.name, t.members.c.attributes)
        .join(t.files, t.files.c.id == t.members.c.file_id)
        .where(t.members.c.collection_id.in_(collection_ids))
    )
    found: dict[str, InCollections] = {}
    for file_id, name, attributes in connection.execute(query):
        found.setdefault(file_id, InCollections(name, [])).attributes.append(attributes)
    return found


def _rows(connection: Connection, file_id: str, embedder: Embedder) -> list[dict[str, Any]]:
    """A file's passages in order, with their texts, what they are found by, and vectors where this embedder made some."""
    texts = {
        row.number: row for row in connection.execute(_TEXTS, {"file_id": file_id})
    }  # cut here: SQLite counts characters from the beginning of a text for each
    rows = [
        dict(row)
        for row in connection.execute(_PASSAGES, {"file_id": file_id, "embedder": embedder.name}).mappings()
    ]
    for row in rows:
        text = texts[row["text_number"]]
        row["title"], row["text"] = text.title, text.text[row["start"] : row["end"]]
    return rows


def _found_by(name: str, row: Mapping[str, Any]) -> str:
    return found_by(name, row["title"], row["heading"], row["text"])


def _kept(row: Mapping[str, Any]) -> Kept:
    return Kept(*(row[name] for name in Kept._fields))


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
