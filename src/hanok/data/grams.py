"""Hashes of every run of words or characters of many texts at once, in numpy.

Words are compared without case and punctuation, characters without case and with every stretch of white space as one
space. Word hashes are odd and character hashes even, so that both fit one table.

Legend: c_N characters of a batch as code points, doc_N the document of each; h_W hashes of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_WORD_SALT = np.uint64(0xD6E8FEB86659FD93)
_LONGEST_WORD = 4096


@dataclass(frozen=True, slots=True)
class Runs:
    """Windows of one size, none of which crosses from one document to the next.

    Args:
        hashes, documents: of each window.
        first_halves, last_halves: hashes of the window's two halves.
        half_hashes, half_documents: of all windows of half the size.
        starts, ends: where the windows stand in the joined text.
    """

    hashes: np.ndarray
    documents: np.ndarray
    first_halves: np.ndarray
    last_halves: np.ndarray
    half_hashes: np.ndarray
    half_documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


class Batch:
    """Several texts as one array of code points.

    Args:
        numbers: what `Runs.documents` calls them.
    """

    def __init__(self, texts: Sequence[str], numbers: Sequence[int]) -> None:
        lengths = np.array([len(text) for text in texts])
        joined = "".join(texts).encode("utf-32-le", "surrogatepass")
        self._codes = np.frombuffer(joined, dtype=np.uint32)
        self._doc_N = np.repeat(np.array(numbers, dtype=np.int64), lengths)

    def characters(self, size: int) -> Runs:
        c_N = _lower(self._codes)
        space = c_N == 32
        doubled = space & np.concatenate([[False], space[:-1]])
        doubled[1:] &= self._doc_N[1:] == self._doc_N[:-1]
        keep = np.flatnonzero(~doubled)
        return _runs(_mix(c_N[keep].astype(np.uint64)), self._doc_N[keep], keep, keep + 1, size, np.uint64(0))

    def words(self, size: int) -> Runs:
        c_N = _letters(self._codes)
        letter = c_N != 0
        same = np.concatenate([[False], (self._doc_N[1:] == self._doc_N[:-1]) & letter[:-1]])
        starts = np.flatnonzero(letter & ~same[: len(letter)])
        inside = np.flatnonzero(letter)
        if not len(starts):
            return _runs(np.empty(0, np.uint64), starts, starts, starts, size, np.uint64(1))
        bounds = np.searchsorted(inside, starts)
        place_in_word = np.arange(len(inside)) - np.repeat(bounds, np.diff(np.append(bounds, len(inside))))
        weighted = _mix(c_N[inside].astype(np.uint64)) * _powers()[place_in_word % _LONGEST_WORD]
        h_N = _mix(np.add.reduceat(weighted, bounds) ^ _WORD_SALT)
        ends = np.append(inside[bounds[1:] - 1], inside[-1]) + 1
        return _runs(h_N, self._doc_N[starts], starts, ends, size, np.uint64(1))


def _runs(
    h_N: np.ndarray, doc_N: np.ndarray, starts: np.ndarray, ends: np.ndarray, size: int, parity: np.uint64
) -> Runs:
    half = size // 2
    h_half, whole_half = _windows(h_N, doc_N, half, parity)
    h_W, whole = _windows(h_N, doc_N, size, parity)
    last_half = size - half
    return Runs(
        hashes=h_W[whole],
        documents=doc_N[whole],
        first_halves=h_half[whole],
        last_halves=h_half[whole + last_half],
        half_hashes=h_half[whole_half],
        half_documents=doc_N[whole_half],
        starts=starts[whole],
        ends=ends[whole + size - 1],
    )


def _windows(
    h_N: np.ndarray, doc_N: np.ndarray, size: int, parity: np.uint64
) -> tuple[np.ndarray, np.ndarray]:
    """A hash of every window of `size` values, by doubling (windows of 2, 4, 8 ... put together), and the places of
    those that lie in one document."""
    count = len(h_N) - size + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    power, total, result = 1, 0, np.empty(0, dtype=np.uint64)
    while total < size:
        if size & power:
            part = h_N[total : total + count]
            result = _mix(result * _MULTIPLIER + part) if total else part.copy()
            total += power
        if total < size:
            h_N = _mix(h_N[:-power] * _MULTIPLIER + h_N[power:])
            power *= 2
    whole = np.flatnonzero(doc_N[:count] == doc_N[size - 1 :])
    return (result & ~np.uint64(1)) | parity, whole


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread every bit over the word (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@cache
def _powers() -> np.ndarray:
    return np.cumprod(np.full(_LONGEST_WORD, _MULTIPLIER))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """By code point of the basic plane: lower case, white space as U+0020; and lower-case letters and digits, or 0."""
    lower = np.arange(0x10000, dtype=np.uint32)
    letters = np.zeros(0x10000, dtype=np.uint32)
    for code in range(0x10000):
        character = chr(code)
        small = ord(character.lower()[0])
        lower[code] = 32 if character.isspace() else small
        letters[code] = small if character.isalnum() else 0
    return lower, letters


def _lower(codes: np.ndarray) -> np.ndarray:
    return np.where(codes < 0x10000, _tables()[0][np.minimum(codes, 0xFFFF)], codes)


def _letters(codes: np.ndarray) -> np.ndarray:
    """Beyond the basic plane everything counts as a letter."""
    return np.where(codes < 0x10000, _tables()[1][np.minimum(codes, 0xFFFF)], codes)
