"""What the paged scheduler asks of a model: steps over rows of several texts, blocks for keys and values, places for states.

Two run it: the native kernels (`native.py`) and PyTorch on a device (`device/decoder.py`). R rows of a step, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from hanok.engine.blocks import BLOCK, BlockPool
from hanok.engine.snapshots import SnapshotPool, copy_states
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import LowRank


class PagedModel(ABC):
    """Args:
    blocks: of the cache. slots: sequences at once that have states (recurrent layers).
    spares: second places for states of sequences that may have to go back. snapshots: of states, to be used again.
    """

    def __init__(self, config: ModelConfig, *, blocks: int, slots: int, spares: int, snapshots: int) -> None:
        self.config, self.slots = config, slots
        self.recurrent = bool({"kda", "gdn"} & set(config.layers))
        self._states: list[Tensor] = []  # of a layer: [place, numbers]
        self._places = slots + 1 + spares + snapshots  # running, one for `read`, second places, snapshots
        self.spares = list(range(slots + 1, slots + 1 + spares))
        copy = partial(copy_states, self._states)  # not this object's method: a circle would keep the weights
        self.snapshots = SnapshotPool(range(self._places - snapshots, self._places), copy)
        self.pool = BlockPool(blocks, reuse=not self.recurrent or snapshots > 0)
        self.caches: list[Tensor] = []  # keys and values of each layer that has them

    @property
    def crew(self) -> Any:
        """Threads for what is done with a step's logits, where there are some of the model's own."""
        return None

    @abstractmethod
    def step(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int] = (), saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (),
    ) -> Tensor:  # fmt: skip
        """Feed R tokens and return float32 logits [len(wanted), V] behind the rows `wanted`.

        Args:
            positions: of each token in its sequence. sequences: which of `tables` each belongs to; the rows of one
                stand together, in order.
            tables: the blocks of each sequence, enough for its highest position.
            slots: where the states of each sequence are; a token at position 0 begins anew. Default: 0, 1, ...
            saves: row to the place that gets a copy of its sequence's states behind it.
            adapters: of each sequence, as `adapter` made them, or None; or of no sequence.
        """

    @abstractmethod
    def step_with_hidden(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int] = (), saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (),
        *, also: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`step`, and the hidden vectors behind the final norm that the logits were made from: float32 [len(wanted), D].

        Args:
            also: rows whose hidden vectors are returned behind those of `wanted`, without logits.
        """

    @abstractmethod
    def adapter(self, decoder: Decoder, lows: Mapping[str, LowRank]) -> Any:
        """A low-rank adapter as `step` takes it. Raises ConfigError for maps that cannot have one.

        Args:
            decoder: that this was made from.
        """

    @abstractmethod
    def refill(self) -> None:
        """Take the decoder's weights anew, in place."""

    @abstractmethod
    def why_not_held(self, tensor: Tensor) -> str | None:
        """Why weights here cannot be as large as this tensor's; None: they can."""

    @property
    @abstractmethod
    def weight_bytes(self) -> int: ...

    @property
    def cache_bytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)

    def read(self, ids: Sequence[int], *, rows: int, adapter: Any = None) -> Iterator[Tensor]:
        """Logits behind every token of a text, float32, at most `rows` of them at a time. `adapter`: as in `step`.

        Raises:
            CapacityError: no blocks are free for it.
        """
        for part, places, table in self._parts(ids, rows):
            yield self.step(
                part, places, [0] * len(part), [table], range(len(part)), [self.slots], adapters=[adapter]
            )

    def _parts(self, ids: Sequence[int], rows: int) -> Iterator[tuple[list[int], range, list[int]]]:
        """Pieces of a text with their places, in blocks that are held until all are read."""
        table = self.pool.take(-(-len(ids) // BLOCK))
        try:
            for start in range(0, len(ids), rows):
                part = list(ids[start : start + rows])
                yield part, range(start, start + len(part)), table
        finally:
            self.pool.give_back(table)

    def copy_states(self, source: int, target: int) -> None:
        """What one place holds over another, in all layers."""
        copy_states(self._states, source, target)


def too_large_for_scales(tensor: Tensor, bits: int | None) -> bool:
    """Whether codes of so many bits with scales in float16 cannot hold it; None: plain numbers."""
    most = 65504.0 * {8: 127, 5: 13.6, 4: 6.4}.get(bits or 0, float("inf"))
    return tensor.dim() >= 2 and bool(tensor.numel()) and float(tensor.abs().max()) > most
