"""Hashed n-grams of a text, without a loop in Python.

Two streams: 2 to 5 characters of the text as it stands, and longer runs of it without blanks, Korean as single letters with tense
and aspirated consonants as plain ones (`hangul.letters`), so that spacing and spelling games change little.

    N  characters    G  distinct n-grams
"""

from __future__ import annotations

import numpy as np

from hanok.guard.hangul import letters

BITS = 18
_MULTIPLIERS = (
    np.random.default_rng(20260104).integers(1 << 62, size=8, dtype=np.uint64) << np.uint64(1)
) | np.uint64(1)
_SALTS = np.random.default_rng(20260105).integers(1 << 63, size=16, dtype=np.uint64)
_BLANK = np.uint32(32)


def hashed(text: str) -> np.ndarray:
    """Distinct features of a text in its normal form: [G] uint32 below 2**BITS. Multiply-shift hashing over code points."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    parts = [_grams(codes, n, salt=n) for n in (2, 3, 4, 5)]
    bare = codes[codes != _BLANK]
    single = letters(bare)
    hangul = ((single >= 0x3131) & (single <= 0x3163)).any()
    parts += [_grams(single, n, salt=8 + n) for n in ((3, 4, 5, 6) if hangul else (5, 6))]
    return np.unique(np.concatenate(parts))


def _grams(codes_N: np.ndarray, n: int, *, salt: int) -> np.ndarray:
    count = len(codes_N) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint32)
    wide = codes_N.astype(np.uint64) + np.uint64(1)
    total = np.full(count, _SALTS[salt], dtype=np.uint64)
    for place in range(n):
        total += (wide[place : place + count] + _SALTS[place]) * _MULTIPLIERS[place]
    total ^= total >> np.uint64(29)
    total *= _MULTIPLIERS[7]
    return (total >> np.uint64(64 - BITS)).astype(np.uint32)
