"""States of recurrent layers at borders of blocks, kept so that a prompt that begins alike need not be read again.

A recurrent state cannot be cut back to an earlier token as keys and values can, so it is copied where a later prompt may
branch off. A snapshot is known by the name of the block that ends at its border (`hanok.engine.blocks`), which salts it with
the tenant too. All lie in a fixed number of places behind those of the running answers; the least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from hanok.engine.blocks import BLOCK

STEP = 8  # blocks between two snapshots of a long prompt, at least
_PER_PROMPT = 4  # a prompt's regular snapshots take at most this part of the places (one over it)


class SnapshotPool:
    """Args: places: where snapshots may lie. copy: the states of one place over those of another."""

    def __init__(self, places: Sequence[int], copy: Callable[[int, int], None]) -> None:
        self._copy = copy
        self._unused = list(places)
        self._place: OrderedDict[bytes, int] = OrderedDict()  # by name, least recently used first
        self._reserved: set[int] = set()
        self.size = len(places)
        self.kept = self.restored = self.evicted = 0

    def __contains__(self, name: bytes) -> bool:
        return name in self._place

    def reserve(self) -> int | None:
        """A place to be written, or None: there are none, or all are being written."""
        if not self._unused:
            if not self._place:
                return None
            _, oldest = self._place.popitem(last=False)
            self._unused.append(oldest)
            self.evicted += 1
        place = self._unused.pop()
        self._reserved.add(place)
        return place

    def commit(self, place: int, name: bytes) -> None:
        """A reserved place holds the states behind the block of this name."""
        self._reserved.remove(place)
        if name in self._place:
            self._place.move_to_end(name)
            self._unused.append(place)
            return
        self._place[name] = place
        self.kept += 1

    def cancel(self, place: int) -> None:
        """A reserved place was not written after all."""
        self._reserved.remove(place)
        self._unused.append(place)

    def cancel_all(self) -> None:
        for place in list(self._reserved):
            self.cancel(place)

    def longest(self, names: Sequence[bytes]) -> int:
        """How many of the names, from the first on, lead to the last that has a snapshot."""
        return next((count for count in range(len(names), 0, -1) if names[count - 1] in self._place), 0)

    def restore(self, name: bytes, place: int) -> None:
        """Copy a snapshot to a running answer's place."""
        self._copy(self._place[name], place)
        self._place.move_to_end(name)
        self.restored += 1

    def drop(self, name: bytes) -> None:
        """Forget one, if it is there."""
        place = self._place.pop(name, None)
        if place is not None:
            self._unused.append(place)

    def forget_all(self) -> None:
        """Nothing of the past fits any more (the weights changed)."""
        self._unused += self._place.values()
        self._place.clear()

    def spacing(self, tokens: int) -> int:
        """Tokens between two regular snapshots of a text: a power of two of `STEP` blocks, so that texts of different
        lengths meet at the same borders."""
        spacing = STEP * BLOCK
        while tokens // spacing > max(1, self.size // _PER_PROMPT):
            spacing *= 2
        return spacing

    def check(self) -> None:
        """Between two steps every place is unused or named, and in one of them once. For tests."""
        everywhere = [*self._unused, *self._place.values()]
        assert len(everywhere) == len(set(everywhere)) == self.size
        assert not self._reserved


def copy_states(of_layers: Sequence[Tensor], source: int, target: int) -> None:
    """What one place holds over another. Args: of_layers: [place, numbers] of each."""
    for states in of_layers:
        states[target].copy_(states[source])
