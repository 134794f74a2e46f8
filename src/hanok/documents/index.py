"""An index in memory over the passages of some files: BM25 by words, cosine by vectors, and a blend of both.

    BM25(q, p) = sum over terms t of q:  idf(t) * f (k1 + 1) / (f + k1 (1 - b + b len(p) / mean len))
    idf(t)     = ln(1 + (P - n + 0.5) / (n + 0.5))

with f = how often t occurs in p, n = in how many of the P passages t occurs, P at least 1,000 (Robertson and Zaragoza,
"The Probabilistic Relevance Framework", 2009, with the idf of Lucene). Divided by what the query could reach at most it lies
between 0 and 1, as does the cosine, so that a blend of the two means the same for every query and every collection.

It holds nothing but the files it was made of: no counts of another collection or tenant can be seen through it.

Shape letters: P passages, T different terms, N postings (one a term and passage), Q terms of the query, S their postings,
D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hanok.documents.words import common_codes, counted

K1, B = 0.6, 0.5  # chosen on 1,500 questions of every other article of KorQuAD
FEWEST = 1000  # passages that a smaller collection counts as: from a few alone, nobody can tell which words are telling
_COMMON = common_codes()
_MOST_IN_QUERY = 3  # times that a repeated word of the query counts
_NONE = np.uint64(1 << 32)  # no code is so large
BLEND = 0.15  # share of the cosine: the best on the half of KorQuAD that benchmarks/documents.py chooses on


@dataclass(frozen=True, slots=True)
class FileTerms:
    """The passages of one file as they are stored: terms of all passages one after the other, and vectors."""

    file_id: str
    numbers_P: np.ndarray
    lengths_P: np.ndarray  # how many terms each passage has
    codes_N: np.ndarray
    often_N: np.ndarray
    vectors_PD: np.ndarray


@dataclass(frozen=True, slots=True)
class Scores:
    """Of every passage. `words_P` and `vectors_P` lie in [0, 1] (a cosine below 0 counts as 0)."""

    words_P: np.ndarray
    vectors_P: np.ndarray

    def blended(self, share: float = BLEND) -> np.ndarray:
        return (1 - share) * self.words_P + share * self.vectors_P


@dataclass(frozen=True, slots=True)
class Asked:
    """A query's terms in an index: number, how often (3 at most), how telling (one that never occurs is the most telling), and
    where its postings are."""

    codes_Q: np.ndarray
    often_Q: np.ndarray
    idf_Q: np.ndarray
    starts_Q: np.ndarray
    counts_Q: np.ndarray

    @property
    def telling(self) -> dict[int, float]:
        return dict(zip(self.codes_Q.tolist(), self.idf_Q.tolist(), strict=True))


class Place(NamedTuple):
    """A passage that was found, by its place in the index."""

    place: int
    score: float
    words: float
    vectors: float


class Index:
    """Read only once made; safe to call from several threads."""

    def __init__(self, files: Sequence[FileTerms]) -> None:
        self.file_ids = [file.file_id for file in files]
        sizes = [len(file.numbers_P) for file in files]
        self.files_P = np.repeat(np.arange(len(files), dtype=np.int32), sizes)
        self.numbers_P = _joined([file.numbers_P for file in files], np.int32)
        lengths_P = _joined([file.lengths_P for file in files], np.int64)
        codes_N = _joined([file.codes_N for file in files], np.uint32)
        often_N = _joined([file.often_N for file in files], np.uint8)
        vectors = [file.vectors_PD for file in files] or [np.zeros((0, 1), np.float32)]
        self._vectors_DP = np.ascontiguousarray(np.concatenate(vectors).T)
        order_N = np.argsort(codes_N, kind="stable")
        codes_T, starts_T = np.unique(codes_N[order_N], return_index=True)
        self._codes_T = np.append(codes_T, _NONE)  # what a term larger than all is compared with
        self._bounds_T = np.append(starts_T, [len(codes_N)] * 2)
        often_N, owners_N = (
            often_N.astype(np.float32),
            np.repeat(np.arange(len(self), dtype=np.int32), lengths_P),
        )
        words_P = np.bincount(owners_N, often_N, len(self))
        norms_P = K1 * (1 - B + B * words_P / max(float(words_P.sum()) / max(len(self), 1), 1.0))
        often_N, self._passages_N = often_N[order_N], owners_N[order_N]
        self._weights_N = often_N * (K1 + 1) / (often_N + norms_P.astype(np.float32)[self._passages_N])

    def __len__(self) -> int:
        return len(self.numbers_P)

    @property
    def bytes(self) -> int:
        return sum(
            a.nbytes for a in (self._vectors_DP, self._passages_N, self._weights_N, self._codes_T, self._bounds_T)
        )  # fmt: skip

    def ask(self, query: str) -> Asked:
        """What a query's terms weigh here."""
        codes_Q, often_Q = counted(query)
        places_Q = np.searchsorted(self._codes_T[:-1], codes_Q)
        starts_Q = self._bounds_T[places_Q]
        counts_Q = np.where(self._codes_T[places_Q] == codes_Q, self._bounds_T[places_Q + 1] - starts_Q, 0)
        common_Q = np.array([code in _COMMON for code in codes_Q.tolist()], bool)
        return Asked(
            codes_Q, np.minimum(often_Q, _MOST_IN_QUERY), self._idf(common_Q, counts_Q), starts_Q, counts_Q
        )

    def by_words(self, asked: Asked) -> np.ndarray:
        """BM25 of every passage, in [0, 1]."""
        weights_Q = asked.often_Q * asked.idf_Q
        total = int(asked.counts_Q.sum())
        ends_Q = np.cumsum(asked.counts_Q)  # of each term's postings, laid side by side
        postings_S = np.arange(total) + np.repeat(asked.starts_Q - ends_Q + asked.counts_Q, asked.counts_Q)
        weights_S = self._weights_N[postings_S] * np.repeat(weights_Q, asked.counts_Q)
        words_P = np.bincount(self._passages_N[postings_S], weights_S, len(self))
        return words_P / max(float(weights_Q.sum()) * (K1 + 1), 1e-9)

    def score(self, query: str, vector_D: np.ndarray) -> Scores:
        """Of every passage. Args: vector_D: of the query, of length 1, by the embedder of the passages."""
        return Scores(self.by_words(self.ask(query)), self.by_vectors(vector_D))

    def best(
        self, words_P: np.ndarray, vector_D: np.ndarray, share: float, limit: int, allowed_P: np.ndarray | None = None
    ) -> list[Place]:  # fmt: skip
        """Those with the highest blended scores above 0, the highest first, earlier ones first among equals.

        Args:
            words_P: of `by_words`. allowed_P: the passages to look at; all.
        """
        vectors_P = self.by_vectors(vector_D)
        scores_P = (1 - share) * words_P + share * vectors_P
        if allowed_P is not None:
            scores_P *= allowed_P
        found = np.argpartition(scores_P, -limit)[-limit:] if limit < len(self) else np.arange(len(self))
        if len(found) and limit < len(self):  # all that are as good as the last: the earlier ones count
            found = np.flatnonzero(scores_P >= scores_P[found].min())
        order = found[np.argsort(-scores_P[found], kind="stable")][:limit]
        return [
            Place(place, float(scores_P[place]), float(words_P[place]), float(vectors_P[place]))
            for place in order.tolist() if scores_P[place] > 0
        ]  # fmt: skip

    def by_vectors(self, vector_D: np.ndarray) -> np.ndarray:
        """The cosine of every passage, in [0, 1]."""
        if not len(self):
            return np.zeros(0, np.float32)
        there = np.flatnonzero(vector_D)
        if 2 * len(there) < len(vector_D):  # as of spelling: a question has few groups of letters
            # no product of matrices: that waits for other threads, which costs more than it saves
            return np.maximum(np.einsum("d,dp->p", vector_D[there], self._vectors_DP[there]), 0.0)
        return np.maximum(vector_D @ self._vectors_DP, 0.0)

    def _idf(self, common_Q: np.ndarray, passages_Q: np.ndarray) -> np.ndarray:
        """As if there were further passages up to `FEWEST`, half of which have the commonest words and none the rest."""
        further = max(0, FEWEST - len(self))
        having_Q = passages_Q + common_Q * (further / 2)
        return np.log1p((len(self) + further - having_Q + 0.5) / (having_Q + 0.5))


def _joined(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)
