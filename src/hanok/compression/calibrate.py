"""What the maps of one block read: second moments and mean sizes of their inputs, block by block.

A decoder is walked layer by layer: the inputs of a block lie in a file, so that memory holds one block's numbers and one
batch. Maps that read the same tensor share one set of moments.

N tokens of a batch, D model width, K inputs of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hanok.artefacts import fsync_file
from hanok.compression.rotate import Rotation
from hanok.models.decoder import Block, Decoder
from hanok.models.linear import Linear
from hanok.models.ragged import Ragged

BATCH_TOKENS = 4096


class Moments:
    """Sums over the rows that a map has read."""

    def __init__(self, inputs: int) -> None:
        self.rows = 0
        self._outer_KK = torch.zeros(inputs, inputs, dtype=torch.float64)
        self._size_K = torch.zeros(inputs, dtype=torch.float64)
        self.max_abs_K = torch.zeros(inputs)

    def add(self, x: Tensor) -> None:
        x_NK = x.detach().float().flatten(0, -2)
        self.rows += len(x_NK)
        self._outer_KK += (x_NK.T @ x_NK).double()
        self._size_K += x_NK.abs().sum(0).double()
        self.max_abs_K = torch.maximum(self.max_abs_K, x_NK.abs().amax(0))

    @property
    def hessian_KK(self) -> Tensor:
        """As `hessian_of` all rows."""
        return 2 / max(self.rows, 1) * self._outer_KK

    @property
    def mean_abs_K(self) -> Tensor:
        return (self._size_K / max(self.rows, 1)).float()


class Watch:
    """While it is open, gathers the moments of a block's linear maps by their names."""

    def __init__(self, block: Block) -> None:
        self.moments: dict[str, Moments] = {}
        self._last: tuple[Tensor, Moments] | None = None
        maps = [(name, module) for name, module in block.named_modules() if isinstance(module, Linear)]
        self._handles = [module.register_forward_pre_hook(self._eye(name)) for name, module in maps]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _eye(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: self._see(name, args[0])

    def _see(self, name: str, x: Tensor) -> None:
        shared = self._last[1] if self._last is not None and self._last[0] is x else None
        if shared is not None and self.moments.get(name, shared) is shared:
            self.moments[name] = shared  # counted with the map before
            return
        if name not in self.moments:
            self.moments[name] = Moments(x.shape[-1])
        self.moments[name].add(x)
        self._last = (x, self.moments[name])


class Rows:
    """Vectors of all calibration tokens in a file, read a batch at a time: pages of a mapped file would count as memory."""

    def __init__(self, file: Path, width: int) -> None:
        self._file, self._width = file, width

    def __getitem__(self, rows: slice) -> Tensor:
        """float32 [rows, width]."""
        skipped, count = 4 * self._width * rows.start, self._width * (rows.stop - rows.start)
        numbers = np.fromfile(self._file, dtype=np.float32, count=count, offset=skipped)
        return torch.from_numpy(numbers).view(-1, self._width)


@torch.no_grad()
def moments_of(block: Block, inputs: Rows, lengths: Sequence[int]) -> dict[str, Moments]:
    """Run a block over all calibration rows and watch its maps."""
    watch = Watch(block)
    try:
        for rows, ragged in batches(lengths):
            block(inputs[rows], ragged, None)
    finally:
        watch.close()
    return watch.moments


@torch.no_grad()
def advance(block: Block, inputs: Rows, lengths: Sequence[int], file: Path) -> None:
    """Write what the block makes of its inputs."""
    with _written(file) as write:
        for rows, ragged in batches(lengths):
            write(block(inputs[rows], ragged, None))


@torch.no_grad()
def embed(
    model: Decoder, windows: Sequence[np.ndarray], file: Path, rotation: Rotation | None = None
) -> None:
    """Write the inputs of the first block, turned where the model is to be."""
    ids_N = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    with _written(file) as write:
        for rows, ragged in batches([len(ids) for ids in windows]):
            x_ND = model._embed(ids_N[rows], ragged).float()
            write(x_ND if rotation is None else rotation.turn(x_ND))


@contextmanager
def _written(file: Path) -> Iterator[Callable[[Tensor], object]]:
    """Takes rows one batch behind the other; they lie on the disk when it closes."""
    with file.open("wb") as opened:
        yield lambda x_ND: opened.write(x_ND.float().contiguous().numpy().data)
    fsync_file(file)


def batches(lengths: Sequence[int]) -> Iterator[tuple[slice, Ragged]]:
    """Whole sequences of together at most `BATCH_TOKENS`, or one."""
    start, bounds = 0, [0]
    for length in lengths:
        if bounds[-1] and bounds[-1] + length > BATCH_TOKENS:
            yield slice(start, start + bounds[-1]), Ragged(torch.tensor(bounds, dtype=torch.int32))
            start, bounds = start + bounds[-1], [0]
        bounds.append(bounds[-1] + length)
    yield slice(start, start + bounds[-1]), Ragged(torch.tensor(bounds, dtype=torch.int32))
