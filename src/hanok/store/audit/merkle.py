"""Merkle trees as RFC 6962 has them: leaves SHA-256(0 || row), nodes SHA-256(1 || left || right); proofs as in RFC 9162, 2.1.

A tree of n leaves splits at the largest power of two below n; built level by level, with a node that has no neighbour going
up as it is, it comes out the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(row: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + row).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the whole subtrees of a growing tree, largest first: enough to grow it and to know its root."""

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size, self.peaks = size, list(peaks)
        assert len(self.peaks) == size.bit_count()

    def add(self, leaf: bytes) -> None:
        self.peaks.append(leaf)
        joined = self.size
        while joined & 1:
            right = self.peaks.pop()
            self.peaks[-1] = node_hash(self.peaks[-1], right)
            joined >>= 1
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return EMPTY
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return EMPTY
    level = leaves
    while len(level) > 1:
        level = _up(level)
    return level[0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """From the leaf up. Raises IndexError for a leaf that is not there."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    path: list[bytes] = []
    level = leaves
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index, level = index >> 1, _up(level)
    return path


def consistency_path(leaves: Sequence[bytes], older: int) -> list[bytes]:
    """That the tree of the first `older` leaves is the beginning of this one (RFC 9162, 2.1.4.1)."""
    if not 0 < older <= len(leaves):
        raise IndexError(older)
    path: list[bytes] = []
    first, last, whole = 0, len(leaves), True  # of what is left to look at; whether it is all of the old tree
    parts: list[bytes] = []
    while older != last - first:
        middle = first + _split(last - first)
        if older <= middle - first:
            parts.append(root_of(leaves[middle:last]))
            last = middle
        else:
            parts.append(root_of(leaves[first:middle]))
            older, first, whole = older - (middle - first), middle, False
    if not whole:
        path.append(root_of(leaves[first:last]))
    return path + parts[::-1]


def includes(row: bytes, index: int, *, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of this root has the row as its leaf `index` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, reached = index, size - 1, leaf_hash(row)
    for step in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            reached = node_hash(step, reached)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            reached = node_hash(reached, step)
        at, last = at >> 1, last >> 1
    return last == 0 and reached == root


def extends(older: int, older_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the larger tree begins with the smaller (RFC 9162, 2.1.4.2)."""
    if older == size:
        return not path and older_root == root
    if not 0 < older < size or not path:
        return False
    steps = [older_root, *path] if older & (older - 1) == 0 else list(path)
    at, last = older - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, step)
        at, last = at >> 1, last >> 1
    return last == 0 and old == older_root and new == root


def _up(level: Sequence[bytes]) -> list[bytes]:
    pairs = [node_hash(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
    return [*pairs, level[-1]] if len(level) & 1 else pairs


def _split(size: int) -> int:
    """The largest power of two below it."""
    return 1 << (size - 1).bit_length() - 1
