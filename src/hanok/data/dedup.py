"""Duplicates: exact ones by a hash, near ones by MinHash and a check of the real overlap.

Texts are sets of shingles: five words in a row, or, of texts below twenty words, five characters. Candidates agree in one of
the bands of their signatures (Broder 1997; banding as in Leskovec et al., Mining of Massive Datasets, chapter 3) and are then
compared by the Jaccard index of their shingles themselves, so a wrong candidate costs time and no document.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import zlib
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash  # type: ignore[attr-defined]

_WORDS, _CHARACTERS, _SHORT = 5, 5, 20
_SPACES = re.compile(r"\s+")
_SEED = 1
_PER_BAND = 16  # documents kept for a band: templates would fill it without end


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a text. shingles: sorted unique uint32. bands: one hash for each band of the signature."""

    exact: bytes
    shingles: np.ndarray
    bands: tuple[int, ...]


def exact_hash(text: str) -> bytes:
    """Of the text without case and with single spaces."""
    plain = _SPACES.sub(" ", text.casefold()).strip()
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles_of(text: str) -> list[str]:
    """Without case and punctuation at the ends of words."""
    words = text.casefold().split()
    if len(words) < _SHORT:
        plain = " ".join(words)
        return list({plain[i : i + _CHARACTERS] for i in range(max(1, len(plain) - _CHARACTERS + 1))})
    return list({" ".join(words[i : i + _WORDS]) for i in range(len(words) - _WORDS + 1)})


def rows_per_band(threshold: float, permutations: int) -> int:
    """The most rows for which a pair at the threshold is found with probability 0.99: 1 - (1 - J^r)^(P/r)."""
    best = 1
    for rows in range(1, 17):
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= 0.99:
            best = rows
    return best


def fingerprint(text: str, *, threshold: float, permutations: int) -> Fingerprint:
    shingles = shingles_of(text)
    sketch = RMinHash(num_perm=permutations, seed=_SEED)
    sketch.update(shingles)
    signature = np.asarray(sketch.digest(), dtype=np.uint32)
    rows = rows_per_band(threshold, permutations)
    bands = tuple(
        int.from_bytes(
            hashlib.blake2b(
                signature[i : i + rows].tobytes(), digest_size=7, salt=bytes([i // rows])
            ).digest()
        )
        for i in range(0, permutations // rows * rows, rows)
    )
    hashes = np.unique(
        np.fromiter((zlib.crc32(s.encode("utf-8", "surrogatepass")) for s in shingles), np.uint32)
    )
    return Fingerprint(exact_hash(text), hashes, bands)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sorted arrays without repeats."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


class Duplicates:
    """Documents seen so far; shingles lie in a temporary file, so memory grows by about 2 KB a document."""

    def __init__(self, *, exact: bool, near: bool, threshold: float) -> None:
        self.exact, self.near, self.threshold = exact, near, threshold
        self._hashes: dict[bytes, str] = {}
        self._bands: dict[int, tuple[int, ...]] = {}
        self._ids: list[str] = []
        self._places: list[tuple[int, int]] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the object)
        self._end = 0

    def __enter__(self) -> Duplicates:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def exact_of(self, identifier: str, digest: bytes) -> str | None:
        """The earlier document with the same text; otherwise this one is kept in mind."""
        if not self.exact:
            return None
        earlier = self._hashes.setdefault(digest, identifier)
        return None if earlier == identifier else earlier

    def near_of(self, identifier: str, fingerprint: Fingerprint) -> tuple[str, float] | None:
        """An earlier document that overlaps by the threshold or more, and by how much; otherwise this one is kept in mind."""
        if not self.near:
            return None
        compared: set[int] = set()
        for band in fingerprint.bands:
            for number in self._bands.get(band, ()):
                if number in compared:
                    continue
                compared.add(number)
                overlap = jaccard(fingerprint.shingles, self._shingles(number))
                if overlap >= self.threshold:
                    return self._ids[number], overlap
        number = len(self._ids)
        for band in fingerprint.bands:
            before = self._bands.get(band, ())
            if len(before) < _PER_BAND:
                self._bands[band] = (*before, number)
        self._ids.append(identifier)
        self._places.append((self._end, len(fingerprint.shingles)))
        self._file.seek(self._end)
        self._end += self._file.write(fingerprint.shingles.tobytes())
        return None

    def _shingles(self, number: int) -> np.ndarray:
        offset, count = self._places[number]
        self._file.seek(offset)
        return np.frombuffer(self._file.read(4 * count), dtype=np.uint32)
