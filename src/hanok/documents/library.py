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

from hanok.documents.collections import Collections
from hanok.documents.files import Files
from hanok.documents.filters import accepted
from hanok.documents.index import BLEND, Index, Scores
from hanok.documents.reading import MOST_BYTES
from hanok.documents.records import SPELLING, Embedding, Hit, Results
from hanok.documents.shelf import Shelf, Shelved
from hanok.documents.support import RANKED, READ, Features, measure, support
from hanok.errors import InputError
from hanok.store.database import Store

LONGEST_QUERY = 4_000  # characters
MOST_HITS = 50


class Library:
    """Safe to call from several threads; several processes may share a database."""

    def __init__(
        self, store: Store, *, embedding: Embedding = SPELLING, most_bytes: int = MOST_BYTES
    ) -> None:
        """Args: embedding: of passages and queries. most_bytes: of one file."""
        self._store, self._embedding = store, embedding
        self.files = Files(store, embedding, most_bytes=most_bytes)
        self.collections = Collections(store)
        self._shelf = Shelf(store)

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
        shelved, vector_D = self._find(tenant, collection_ids, query)
        index, asked = shelved.index, shelved.index.ask(query)
        allowed_P = None if filters is None else shelved.allowed(test)
        places = index.best(index.by_words(asked), vector_D, blend, limit, allowed_P)
        found = [shelved.found(one.place) for one in places]
        hits = [
            Hit(
                passage=passage, score=round(one.score, 6), words=one.words, vectors=one.vectors,
                attributes=next(filter(test, shelved.files[passage.file_id].attributes)),
            )
            for one, passage in zip(places, found, strict=True)
        ]  # fmt: skip
        texts = [passage.text for passage in found[:READ]]
        return hits, measure(query, asked.telling, [hit.score for hit in hits], texts)

    def scores(self, tenant: str, collection_ids: Sequence[str], query: str) -> tuple[Index, Scores]:
        """Of every passage."""
        shelved, vector_D = self._find(tenant, collection_ids, query)
        return shelved.index, shelved.index.score(query, vector_D)

    def _find(self, tenant: str, collection_ids: Sequence[str], query: str) -> tuple[Shelved, np.ndarray]:
        """What is searched, and the query's vector."""
        checked_query(query)
        with self._embedding.now() as embedder:
            shelved = self._shelf.get(tenant, collection_ids, embedder)
            vector_D = np.asarray(embedder.embed([query]), np.float32)[0]
        return shelved, vector_D / max(float(np.linalg.norm(vector_D)), 1e-9)


def checked_query(query: str) -> None:
    """Raises InputError for a query that says nothing or too much."""
    if not any(character.isalnum() for character in query):
        raise InputError("the query is empty", remedy="ask for something")
    if len(query) > LONGEST_QUERY:
        raise InputError(
            f"the query has {len(query):,} characters", remedy=f"at most {LONGEST_QUERY:,} are searched for"
        )
