"""Vectors of how a text is spelt: jamo (the letters of Hangul syllables) and Latin letters in groups of 3 to 6, hashed.

They find what words and pairs of syllables miss: mistyped words and changed endings ("하였다", "했다"), of which most jamo
still agree. A fixed function of the text: nothing is fitted, so a vector holds no trace of other documents.

Feature hashing with signs: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.

Shape letters: T texts, D = 1024 dimensions, G groups of letters, L letters, S sizes of groups.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

NAME = "spelling-1"
DIMENSIONS = 1024
_SHORTEST, _LONGEST = 3, 6
_WORD = re.compile(r"[^\W_]+")
_SPACE = ord(" ")
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
_FACTORS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))
_SIZES = np.arange(_SHORTEST, _LONGEST + 1, dtype=np.uint64)


def embed(texts: Sequence[str]) -> np.ndarray:
    """[T, D] float32, rows of length 1 (0 for a text without letters and digits)."""
    vectors_TD = np.zeros((len(texts), DIMENSIONS), np.float32)
    for vector_D, text in zip(vectors_TD, texts, strict=True):
        groups_G, often_G = np.unique(_groups(text), return_counts=True)
        weights_G = np.log1p(often_G)
        signed_G = np.where(groups_G >> np.uint64(63), weights_G, -weights_G)
        places_G = (groups_G % np.uint64(DIMENSIONS)).astype(np.int64)
        vector_D += np.bincount(places_G, signed_G, DIMENSIONS).astype(np.float32)
        vector_D /= max(float(np.linalg.norm(vector_D)), 1e-9)
    return vectors_TD


def _groups(text: str) -> np.ndarray:
    """A 64-bit number for each group of letters of one word; the spaces around a word count as letters of it."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    letters = unicodedata.normalize("NFD", f" {' '.join(words)} ")
    letters_L = np.frombuffer(letters.encode("utf-32-le"), np.uint32).astype(np.uint64)
    padded_L = np.concatenate([letters_L, np.zeros(_LONGEST, np.uint64)])
    space_L = padded_L == _SPACE
    groups_SL = np.repeat(_SIZES[:, None], len(letters_L), axis=1)  # one row a size
    crossing_SL = np.zeros(groups_SL.shape, bool)
    for place in range(_LONGEST):
        longer = slice(max(0, place + 1 - _SHORTEST), None)  # those that have a letter at this place
        groups_SL[longer] = _mixed(groups_SL[longer] ^ padded_L[place : place + len(letters_L)])
        if place:  # inside of those that have a further letter
            crossing_SL[max(0, place + 2 - _SHORTEST) :] |= space_L[place : place + len(letters_L)]
    for row, size in enumerate(range(_SHORTEST, _LONGEST + 1)):
        crossing_SL[row, max(0, len(letters_L) - size + 1) :] = True  # over the end
    return groups_SL[~crossing_SL]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Each number to one that looks drawn by chance (the finaliser of splitmix64)."""
    numbers = numbers + _PRIME
    numbers ^= numbers >> _SHIFTS[0]
    numbers *= _FACTORS[0]
    numbers ^= numbers >> _SHIFTS[1]
    numbers *= _FACTORS[1]
    numbers ^= numbers >> _SHIFTS[2]
    return numbers
