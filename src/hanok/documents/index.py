"""An index in memory over the passages of some files: BM25 by words, cosine by vectors, and a blend of both.

    BM25(q, p) = sum over terms t of q:  idf(t) * f (k1 + 1) / (f + k1 (1 - b + b len(p) / mean len))
    idf(t)     = ln(1 + (P - n + 0.5) / (n + 0.5))

with f = how often t occurs in p, n = in how many of the P passages t occurs, P at least 1,000 (Robertson and Zaragoza,
"The Probabilistic Relevance Framework", 2009, with the idf of Lucene). Divided by what the query could reach at most it lies
between 0 and 1, as does the cosine, so that a blend of the two means the same for every query and every collection.

It holds nothing but the files it was made of: no counts of another collection or tenant can be seen through it.

Shape letters: P passages, T different terms, N postings (one a term and passage), Q terms of the query, D dimensions.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hanok.documents.words import coded, common_codes, terms

K1, B = 0.6, 0.5  # chosen on 1,500 questions of every other article of KorQuAD
FEWEST = 1000  # passages that a smaller collection counts as: from a few alone, nobody can tell which words are telling
_COMMON = common_codes()
_MOST_IN_QUERY = 3  # times that a repeated word of the query counts
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
        self._vectors_PD = (
            np.concatenate([file.vectors_PD for file in files]) if files else np.zeros((0, 1), np.float32)
        )
        order_N = np.argsort(codes_N, kind="stable")
        self._codes_T, starts_T = np.unique(codes_N[order_N], return_index=True)
        self._bounds_T = np.append(starts_T, len(codes_N))
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
            a.nbytes for a in (self._vectors_PD, self._passages_N, self._weights_N, self._codes_T, self._bounds_T)
        )  # fmt: skip

    def score(self, query: str, vector_D: np.ndarray) -> Scores:
        """Args: vector_D: of the query, of length 1, by the embedder of the passages."""
        words_P = np.zeros(len(self), np.float32)
        most = 0.0
        codes_Q, often_Q = coded(terms(query))
        for code, often in zip(codes_Q.tolist(), often_Q.tolist(), strict=True):
            start, stop = self._postings(code)
            weight = min(often, _MOST_IN_QUERY)
            weight *= self._idf(code, stop - start)
            most += weight * (K1 + 1)
            words_P[self._passages_N[start:stop]] += weight * self._weights_N[start:stop]
        vectors_P = np.maximum(self._vectors_PD @ vector_D, 0.0) if len(self) else words_P
        return Scores(words_P / max(most, 1e-9), vectors_P)

    def idf(self, term: str) -> float:
        """How telling a term is in this collection; one that never occurs is the most telling."""
        code = zlib.crc32(term.encode())
        start, stop = self._postings(code)
        return self._idf(code, stop - start)

    def _postings(self, code: int) -> tuple[int, int]:
        place = int(np.searchsorted(self._codes_T, np.uint32(code)))
        if place == len(self._codes_T) or int(self._codes_T[place]) != code:
            return 0, 0
        return int(self._bounds_T[place]), int(self._bounds_T[place + 1])

    def _idf(self, code: int, passages: int) -> float:
        """As if there were further passages up to `FEWEST`, half of which have the commonest words and none the rest."""
        further = max(0, FEWEST - len(self))
        having = passages + (further / 2 if code in _COMMON else 0.0)
        return float(np.log1p((len(self) + further - having + 0.5) / (having + 0.5)))


def _joined(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)
