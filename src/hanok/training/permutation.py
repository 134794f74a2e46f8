"""A pseudo-random order of n things without storing it: a Feistel network over the next even power of two, walked
until it lands below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

Any position maps to its element in constant time and memory, so the order of an epoch is a pure function of its key
and a data cursor is one integer.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6


class Permutation:
    """The order of `range(n)` that belongs to `key` (any text)."""

    def __init__(self, n: int, key: str) -> None:
        assert n > 0
        self.n = n
        self._half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        digest = hashlib.sha256(key.encode()).digest() + hashlib.sha256(b"+" + key.encode()).digest()
        self._keys = np.frombuffer(digest, dtype="<u8")[:_ROUNDS]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Elements (int64) at `positions` (integers in [0, n)) of the order."""
        values = self._network(np.asarray(positions, dtype=np.uint64))
        outside = values >= self.n
        while outside.any():
            values[outside] = self._network(values[outside])
            outside = values >= self.n
        return values.astype(np.int64)

    def _network(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64; products wrap around modulo 2^64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
