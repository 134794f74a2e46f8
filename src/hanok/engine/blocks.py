"""Blocks of the cache: who holds which, and which can be used again by a prompt that begins alike.

A full block is known by a hash over its tokens and all before it, salted with the tenant, so that tenants never see from
the time of an answer what others asked, and with the content of the adapter that it was computed with. Nobody's blocks stay
as long as there is room and go the least recently used first.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from hanok.errors import CapacityError

BLOCK = 64  # tokens


class BlockPool:
    """Args: blocks: in all. reuse: keep full blocks of the past."""

    def __init__(self, blocks: int, *, reuse: bool = True) -> None:
        self.size = blocks
        self.most_held = 0  # at one time, so far
        self._reuse = reuse
        self._unused = list(range(blocks))
        self._holders = [0] * blocks
        self._name: list[bytes | None] = [None] * blocks
        self._named: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # named, held by nobody, oldest first

    @property
    def free(self) -> int:
        """Blocks that `take` can give."""
        return len(self._unused) + len(self._idle)

    @property
    def idle(self) -> int:
        """Blocks that nobody holds and that a prompt may find again."""
        return len(self._idle)

    def take(self, count: int) -> list[int]:
        """Raises CapacityError: there are not so many; none is taken then."""
        if count > self.free:
            raise CapacityError(
                f"the cache has {self.free} free blocks of {BLOCK} tokens, {count} are needed",
                remedy="wait for others to finish, or give the cache more memory",
            )
        taken = []
        for _ in range(count):
            if not self._unused:
                oldest, _ = self._idle.popitem(last=False)
                self._forget(oldest)
                heapq.heappush(self._unused, oldest)
            block = heapq.heappop(self._unused)
            self._holders[block] = 1
            taken.append(block)
        self.most_held = max(self.most_held, self.size - self.free)
        return taken

    def give_back(self, blocks: Sequence[int]) -> None:
        """One holder less of each. The last ones go first from the past: without its beginning, a text's rest is of no use."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is held by nobody"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._name[block] is None:
                heapq.heappush(self._unused, block)
            else:
                self._idle[block] = None

    def remember(self, block: int, name: bytes) -> None:
        """A held block is full and will not change."""
        if self._reuse and name not in self._named and self._name[block] is None:
            self._named[name] = block
            self._name[block] = name

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The longest run of remembered blocks from the first name on; they are held by the caller from here."""
        found = []
        for name in names:
            block = self._named.get(name)
            if block is None:
                break
            self._idle.pop(block, None)
            self._holders[block] += 1
            found.append(block)
        self.most_held = max(self.most_held, self.size - self.free)
        return found

    def forget_all(self) -> None:
        """Nothing of the past fits any more (the weights changed)."""
        for block in list(self._named.values()):
            self._forget(block)
            if block in self._idle:
                del self._idle[block]
                heapq.heappush(self._unused, block)

    def check(self, tables: Sequence[Sequence[int]]) -> None:
        """Every block is where it should be: in the tables that hold it, idle, or unused. For tests."""
        held = np.zeros(self.size, dtype=int)
        for table in tables:
            for block in table:
                held[block] += 1
        assert held.tolist() == self._holders
        idle, unused = set(self._idle), set(self._unused)
        assert len(unused) == len(self._unused)
        assert not idle & unused
        assert idle | unused == {block for block in range(self.size) if not held[block]}
        assert all(self._name[block] == name for name, block in self._named.items())
        assert idle <= set(self._named.values())

    def _forget(self, block: int) -> None:
        name = self._name[block]
        if name is not None:
            del self._named[name]
            self._name[block] = None


def block_names(
    tokens: Sequence[int], tenant: str, *, adapter: bytes = b"", after: bytes = b""
) -> Iterator[bytes]:
    """The name of each full block of a text.

    Args:
        adapter: hash of its content, at most 64 bytes. after: the name of the block before the first.
    """
    name = after
    if not after:
        salt = hashlib.blake2b(tenant.encode(), digest_size=16, person=b"hanok-prefix", key=adapter)
        name = salt.digest()
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        part = np.asarray(tokens[start : start + BLOCK], dtype="<i4").tobytes()
        name = hashlib.blake2b(name + part, digest_size=16).digest()
        yield name
