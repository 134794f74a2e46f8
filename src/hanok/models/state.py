"""What a decoder remembers between calls: one entry a layer, one row a sequence. Can be kept, copied, rolled back.

B sequences. Entries are tensors whose first dimension is B: keys, values, latents, recurrent and convolution states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LayerState = dict[str, Tensor]


@dataclass
class DecoderState:
    """`lengths_B`: tokens that each sequence has seen. `layers`: one mapping of named tensors per layer."""

    lengths_B: Tensor
    layers: list[LayerState]

    def select(self, indices: Sequence[int] | Tensor) -> DecoderState:
        """The rows of some sequences, copied (an index may repeat: a fork)."""
        index = torch.as_tensor(indices, dtype=torch.long)
        layers = [{name: x[index] for name, x in layer.items()} for layer in self.layers]
        return DecoderState(self.lengths_B[index], layers)

    def clone(self) -> DecoderState:
        """A snapshot: later calls do not touch it."""
        return DecoderState(
            self.lengths_B.clone(), [{name: x.clone() for name, x in layer.items()} for layer in self.layers]
        )

    @staticmethod
    def concatenate(states: Sequence[DecoderState]) -> DecoderState:
        """Rows of several states as one; caches are padded to the longest."""
        return states[0].followed_by(states[1:])

    def followed_by(self, others: Sequence[DecoderState]) -> DecoderState:
        """The rows of this state and of others, copied."""
        states, layers = [self, *others], []
        for parts in zip(*(state.layers for state in states), strict=True):
            layers.append({name: _stack_rows([part[name] for part in parts]) for name in parts[0]})
        return DecoderState(torch.cat([state.lengths_B for state in states]), layers)

    def write(self, rows: Sequence[int], source: DecoderState) -> None:
        """Copy all rows of `source` over these; caches grow where they are too short."""
        index = torch.tensor(rows)
        self.lengths_B[index] = source.lengths_B
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            for name, new in theirs.items():
                old = mine[name]
                if any(a < b for a, b in zip(old.shape[1:], new.shape[1:], strict=True)):
                    shape = [max(a, b) for a, b in zip(old.shape[1:], new.shape[1:], strict=True)]
                    grown = old.new_zeros(old.shape[0], *shape)
                    grown[(slice(None), *(slice(0, n) for n in old.shape[1:]))] = old
                    old = mine[name] = grown
                window = old[(slice(None), *(slice(0, n) for n in new.shape[1:]))]
                window[index] = new.to(window.dtype)

    def rewind(self, rows: Sequence[int]) -> None:
        """These rows have seen no token: what runs in them writes over what they hold."""
        self.lengths_B[list(rows)] = 0

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for layer in self.layers for x in layer.values())


def _stack_rows(parts: list[Tensor]) -> Tensor:
    shape = [max(part.shape[d] for part in parts) for d in range(1, parts[0].dim())]
    if all(list(part.shape[1:]) == shape for part in parts):
        return torch.cat(parts)
    rows = sum(part.shape[0] for part in parts)
    whole = parts[0].new_zeros(rows, *shape)
    start = 0
    for part in parts:
        window = (slice(start, start + part.shape[0]), *(slice(0, n) for n in part.shape[1:]))
        whole[window] = part
        start += part.shape[0]
    return whole
