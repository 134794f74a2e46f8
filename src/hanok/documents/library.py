"""The library of a database: every tenant's files and collections, and search in them.

library = Library(store)
file = library.files.add("default", "handbook.pdf", content)
shelf = library.collections.create("default", "handbooks", file_ids=[file.id])
hits = library.search("default", [shelf.id], "휴가는 며칠인가요?").hits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import delete, inspect, select

from hanok.documents import tables as t
from hanok.documents.collections import Collections
from hanok.documents.files import Files, passages_of
from hanok.documents.filters import Attributes, accepted
from hanok.documents.index import BLEND, Index, Scores
from hanok.documents.reading import MOST_BYTES
from hanok.documents.records import SPELLING, Embedder, Hit, Results
from hanok.documents.shelf import Shelf
from hanok.documents.support import RANKED, Features, measure, support
from hanok.errors import InputError
from hanok.store.database import Store

LONGEST_QUERY = 4_000  # characters
MOST_HITS = 50


class Library:
    """Safe to call from several threads; several processes may share a database."""

    def __init__(self, store: Store, *, embedder: Embedder = SPELLING, most_bytes: int = MOST_BYTES) -> None:
        """Args: embedder: of passages and queries. most_bytes: of one file."""
        _make_tables(store)
        self._store, self._embedder = store, embedder
        self.files = Files(store, embedder, most_bytes=most_bytes)
        self.collections = Collections(store)
        self._shelf = Shelf(store, embedder)

    def search(
        self, tenant: str, collection_ids: Sequence[str], query: str, *, limit: int = 10,
        filters: Mapping[str, Any] | None = None, threshold: float = 0.0, blend: float = BLEND,
    ) -> Results:  # fmt: skip
        """The best passages.

        Args:
            filters: of files, by their attributes (`hanok.documents.filters`). threshold: the least score.
            blend: the share of vectors in the score; 0 is BM25 alone, 1 vectors alone.

        Raises:
            NotFoundError: a collection is unknown or another tenant's.
            InputError: an empty or too long query, a limit out of range, a filter of another form.
        """
        if not 1 <= limit <= MOST_HITS:
            raise InputError(f"{limit} results wanted", remedy=f"1 to {MOST_HITS}")
        hits, features = self.measured(
            tenant, collection_ids, query, limit=max(limit, RANKED), filters=filters, blend=blend
        )
        kept = tuple(hit for hit in hits[:limit] if hit.score >= threshold)
        return Results(kept, support(features))

    def measured(
        self, tenant: str, collection_ids: Sequence[str], query: str, *, limit: int = RANKED,
        filters: Mapping[str, Any] | None = None, blend: float = BLEND,
    ) -> tuple[list[Hit], Features]:  # fmt: skip
        """The best passages, and what tells whether an answer is among them."""
        test = accepted(filters)
        index, scores = self.scores(tenant, collection_ids, query)
        attributes = {
            file_id: next(filter(test, given)) for file_id, given in self._attributes(collection_ids).items()
            if any(map(test, given))
        }  # fmt: skip
        hits = self._hits(index, scores, attributes, limit, blend)
        return hits, measure(query, hits, index.idf)

    def _hits(
        self, index: Index, scores: Scores, attributes: Mapping[str, Attributes], limit: int, blend: float
    ) -> list[Hit]:  # fmt: skip
        """The best passages of the files that have attributes."""
        blended_P = scores.blended(blend)
        allowed_F = np.array([file_id in attributes for file_id in index.file_ids], bool)
        allowed_P = (blended_P > 0) & (allowed_F[index.files_P] if len(index) else False)
        places = best(np.where(allowed_P, blended_P, 0.0), limit)
        places = [place for place in places if allowed_P[place]]
        keys = [(index.file_ids[index.files_P[place]], int(index.numbers_P[place])) for place in places]
        with self._store.read() as connection:
            found = passages_of(connection, keys)
        return [
            Hit(
                passage=found[key], score=round(float(blended_P[place]), 6), words=float(scores.words_P[place]),
                vectors=float(scores.vectors_P[place]), attributes=attributes[key[0]],
            )
            for key, place in zip(keys, places, strict=True)
            if key in found  # deleted a moment ago
        ]  # fmt: skip

    def scores(self, tenant: str, collection_ids: Sequence[str], query: str) -> tuple[Index, Scores]:
        """Of every passage."""
        checked_query(query)
        index = self._shelf.index(tenant, collection_ids)
        vector_D = np.asarray(self._embedder.embed([query]), np.float32)[0]
        vector_D /= max(float(np.linalg.norm(vector_D)), 1e-9)
        return index, index.score(query, vector_D)

    def _attributes(self, collection_ids: Sequence[str]) -> dict[str, list[Attributes]]:
        """Of each file, once for each collection that it is in."""
        query = select(t.members.c.file_id, t.members.c.attributes)
        found: dict[str, list[Attributes]] = {}
        with self._store.read() as connection:
            for file_id, attributes in connection.execute(
                query.where(t.members.c.collection_id.in_(collection_ids))
            ):
                found.setdefault(file_id, []).append(attributes)
        return found


def forget_tenant(store: Store, tenant: str) -> dict[str, int]:
    """Delete all files and collections of a tenant; how many of each table."""
    with store.read() as connection:
        if not inspect(connection).has_table(t.origins.name):
            return {}
    with store.write() as connection:
        return {
            table.name: connection.execute(delete(table).where(table.c.tenant == tenant)).rowcount
            for table in (t.collections, t.files)
        }


def _make_tables(store: Store) -> None:
    with store.read() as connection:
        if inspect(connection).has_table(t.origins.name):  # the last to be made
            return
    with store.write() as connection:
        t.metadata.create_all(connection)


def checked_query(query: str) -> None:
    """Raises InputError for a query that says nothing or too much."""
    if not any(character.isalnum() for character in query):
        raise InputError("the query is empty", remedy="ask for something")
    if len(query) > LONGEST_QUERY:
        raise InputError(
            f"the query has {len(query):,} characters", remedy=f"at most {LONGEST_QUERY:,} are searched for"
        )


def best(scores_P: np.ndarray, limit: int) -> list[int]:
    """Places of the highest scores, the highest first, earlier ones first among equals."""
    limit = min(limit, len(scores_P))
    if limit == 0:
        return []
    least = np.partition(scores_P, len(scores_P) - limit)[len(scores_P) - limit]
    near = np.flatnonzero(scores_P >= least)
    return near[np.argsort(-scores_P[near], kind="stable")][:limit].tolist()
