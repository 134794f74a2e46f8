"""Steps of one token for each text, in a few fixed shapes: on a GPU each is captured once as a CUDA graph and replayed, so that
the host starts one thing a step rather than hundreds.

Rows are filled up to the next size with tokens of a text of their own, in a block and a place that nobody reads.

B rows, W blocks of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hanok.reporting import log

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)  # beyond: the next multiple of the last
_WARM_UPS = 2  # before a capture: libraries choose and allocate in their first calls

Step = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(slots=True)
class _Shape:
    """What a shape's step reads and writes. graph: None where it runs as it is."""

    inputs: Tensor
    parts: list[Tensor]
    graph: Any = None
    outputs: tuple[Tensor, Tensor] | None = None


class DecodeSteps:
    """Args:
    spare_block, spare_slot: of the rows that fill up.
    """

    def __init__(self, device: torch.device, *, spare_block: int, spare_slot: int) -> None:
        self._device = device
        self._spare_block, self._spare_slot = spare_block, spare_slot
        self._capturing = device.type == "cuda"
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._pool: Any = None  # graphs run one after the other and share their memory

    def __call__(
        self, step: Step, ids: Sequence[int], positions: Sequence[int], tables: Sequence[Sequence[int]],
        slots: Sequence[int],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Valid until the next call.

        Args:
            step: (ids_B, positions_B, slots_B, tables_BW) to (logits, hidden vectors), always the same; it asks the host nothing.
        """
        count, most = len(ids), SIZES[-1]
        size = next((size for size in SIZES if size >= count), -(-count // most) * most)
        width = 1 << (max(map(len, tables)) - 1).bit_length()
        shape = self._shapes.get((size, width)) or self._new_shape(step, size, width)
        shape.inputs.copy_(self._numbers(size, width, ids, positions, tables, slots))
        if shape.graph is None:
            logits, hidden = step(*shape.parts)
        else:
            shape.graph.replay()
            assert shape.outputs is not None
            logits, hidden = shape.outputs
        return logits[:count], hidden[:count]

    def _numbers(
        self, size: int, width: int, ids: Sequence[int], positions: Sequence[int], tables: Sequence[Sequence[int]],
        slots: Sequence[int],
    ) -> Tensor:  # fmt: skip
        spare = size - len(ids)
        flat = [*ids, *[0] * spare, *positions, *[0] * spare, *slots, *[self._spare_slot] * spare]
        for table in tables:
            flat += table
            flat += [self._spare_block] * (width - len(table))
        flat += [self._spare_block] * (spare * width)
        return torch.tensor(flat, device="cpu")

    def _new_shape(self, step: Step, size: int, width: int) -> _Shape:
        inputs = self._numbers(size, width, [], [], [], []).to(self._device)
        ids, positions, slots, tables = inputs.split([size, size, size, size * width])
        shape = self._shapes[size, width] = _Shape(inputs, [ids, positions, slots, tables.view(size, width)])
        if self._capturing:
            try:
                self._capture(step, shape)
            except Exception as why:  # what a library does in a capture is not known beforehand
                self._capturing = False
                log.warning("steps run without CUDA graphs, which fail here (%s)", why)
        return shape

    def _capture(self, step: Step, shape: _Shape) -> None:
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step(*shape.parts)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            shape.outputs = step(*shape.parts)
        self._pool, shape.graph = self._pool or graph.pool(), graph
