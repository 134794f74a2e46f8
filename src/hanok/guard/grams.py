"""Hashed n-grams of a text, without a loop in Python.

Two streams: 2 to 5 characters of the text as it stands, and 3 to 6 of it without blanks, Korean as single letters with tense and
aspirated consonants as plain ones (`hangul.letters`), so that spacing and spelling games change little.

    N  characters    G  distinct n-grams
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hanok.errors import InputError
from hanok.guard.hangul import letters

BITS = 18
FORMAT = (
    2  # of what was trained on these n-grams or their scores: weights and bands for others would say nothing
)
_MULTIPLIERS = (
    np.random.default_rng(20260104).integers(1 << 62, size=8, dtype=np.uint64) << np.uint64(1)
) | np.uint64(1)
_SALTS = np.random.default_rng(20260105).integers(1 << 63, size=16, dtype=np.uint64)
_BLANK = np.uint32(32)


def check_format(file: Path, metadata: Mapping[str, str]) -> None:
    """Raises InputError: trained on other n-grams."""
    if metadata["format"] != str(FORMAT):
        raise InputError(f"{file} has format {metadata['format']}, not {FORMAT}", remedy="train it anew")


def hashed(text: str) -> np.ndarray:
    """Distinct features of a text in its normal form: [G] uint32 below 2**BITS. Multiply-shift hashing over code points."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    single = letters(codes[codes != _BLANK])
    sums = [*_sums(codes, (2, 3, 4, 5), salt=0), *_sums(single, (3, 4, 5, 6), salt=8)]
    if not sums:
        return np.empty(0, dtype=np.uint32)
    mixed = np.concatenate(sums)
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MULTIPLIERS[7]
    ordered = (mixed >> np.uint64(64 - BITS)).astype(np.uint32)
    ordered.sort()
    new = np.empty(len(ordered), dtype=bool)
    new[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def _sums(codes_N: np.ndarray, lengths: Sequence[int], *, salt: int) -> Iterator[np.ndarray]:
    """Of the n-grams of each length; a longer one goes on where the next shorter one's stopped."""
    wide = codes_N.astype(np.uint64) + np.uint64(1)
    total, summed = np.zeros(len(wide), dtype=np.uint64), 0
    for n in lengths:
        count = len(wide) - n + 1
        if count <= 0:
            return
        total = total[:count]
        for place in range(summed, n):
            total = total + (wide[place : place + count] + _SALTS[place]) * _MULTIPLIERS[place]
        summed = n
        yield total + _SALTS[salt + n]
