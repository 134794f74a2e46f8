"""Vectors of how a text is spelt: jamo (the letters of Hangul syllables) and Latin letters in groups of 3 to 6, hashed.

They find what words and pairs of syllables miss: mistyped words and changed endings ("하였다", "했다"), of which most jamo
still agree. A fixed function of the text: nothing is fitted, so a vector holds no trace of other documents.

Feature hashing with signs: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.

Shape letters: T texts, D = 1024 dimensions, G groups of letters, L letters.
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
    space_L = letters_L == _SPACE
    found = []
    for size in range(_SHORTEST, _LONGEST + 1):
        count = len(letters_L) - size + 1
        if count <= 0:
            break
        groups_G = np.full(count, size, np.uint64)
        crossing_G = np.zeros(count, bool)
        for place in range(size):
            groups_G = _mixed(groups_G ^ letters_L[place : place + count])
            if 0 < place < size - 1:
                crossing_G |= space_L[place : place + count]
        found.append(groups_G[~crossing_G])
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Each number to one that looks drawn by chance (the finaliser of splitmix64)."""
    numbers = numbers + _PRIME
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
