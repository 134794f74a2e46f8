"""Trees and proofs against the definition of RFC 6962 and its known roots."""

from __future__ import annotations

import hashlib
import random

import pytest

from hanok.store.audit.merkle import (
    EMPTY,
    Frontier,
    consistency_path,
    extends,
    includes,
    inclusion_path,
    leaf_hash,
    root_of,
)  # fmt: skip

# the leaves and roots that Certificate Transparency's own tests use
ROWS = [bytes.fromhex(row) for row in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def by_definition(rows: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not rows:
        return hashlib.sha256().digest()
    if len(rows) == 1:
        return hashlib.sha256(b"\0" + rows[0]).digest()
    split = max(2**power for power in range(20) if 2**power < len(rows))
    return hashlib.sha256(b"\1" + by_definition(rows[:split]) + by_definition(rows[split:])).digest()


def test_known_roots() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY == root_of([])
    for size, root in enumerate(ROOTS, 1):
        frontier.add(leaf_hash(ROWS[size - 1]))
        assert frontier.root().hex() == root_of([leaf_hash(row) for row in ROWS[:size]]).hex() == root


def test_all_proofs_of_small_trees() -> None:
    rows = [b"row %d" % number for number in range(40)]
    leaves = [leaf_hash(row) for row in rows]
    for size in range(1, 41):
        root = by_definition(rows[:size])
        assert root_of(leaves[:size]) == root
        for index in range(size):
            path = inclusion_path(leaves[:size], index)
            assert includes(rows[index], index, size=size, root=root, path=path)
        for older in range(1, size + 1):
            path = consistency_path(leaves[:size], older)
            assert extends(older, by_definition(rows[:older]), size, root, path)


def test_wrong_proofs_are_none() -> None:
    random.seed(7)
    rows = [b"row %d" % number for number in range(37)]
    leaves = [leaf_hash(row) for row in rows]
    root, path = root_of(leaves), inclusion_path(leaves, 20)
    assert not includes(b"row 21", 20, size=37, root=root, path=path)
    assert not includes(rows[20], 21, size=37, root=root, path=path)
    assert not includes(rows[20], 20, size=37, root=root, path=path[:-1])
    assert not includes(rows[20], 20, size=37, root=root, path=[*path, path[0]])
    assert not includes(rows[20], 37, size=37, root=root, path=path)
    for place in range(len(path)):
        changed = [*path[:place], random.randbytes(32), *path[place + 1 :]]
        assert not includes(rows[20], 20, size=37, root=root, path=changed)
    older = root_of(leaves[:21])
    proof = consistency_path(leaves, 21)
    assert extends(21, older, 37, root, proof)
    assert not extends(21, root_of(leaves[:20]), 37, root, proof)
    assert not extends(20, older, 37, root, proof)
    assert not extends(21, older, 37, root_of(leaves[:36]), proof)
    assert not extends(21, older, 37, root, proof[:-1])
    for path_of in (inclusion_path, consistency_path):
        with pytest.raises(IndexError):
            path_of(leaves, 38)


def test_a_frontier_goes_on_where_it_was_kept() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(100)]
    frontier = Frontier()
    for number, leaf in enumerate(leaves):
        frontier = Frontier(number, frontier.peaks)
        frontier.add(leaf)
    assert frontier.root() == root_of(leaves)
