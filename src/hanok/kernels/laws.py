"""Decoding heads in one native call: temperature and top-p of some rows. `models/decoding.py` is the specification.

B rows of a step, R of them wanted, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hanok.kernels.native import address, native

_TOGETHER = 128  # units, as in laws.h


class HeadWeights:
    """First maps whose numbers fit bfloat16, as those of saved heads do, are held in it: a small model's step is soon over, and
    what is read for the heads counts.

    Args:
        tensors: float32: first map, its bias, second map, its bias of the temperature head, then of the other.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        module = native()
        assert module is not None
        units, self.width = tensors[0].shape
        paired = [fits_bfloat16(tensors[place]) for place in (0, 4)]
        self._tensors = [
            tensor if place % 4 else _pairs(tensor) if paired[place // 4] else _by_inputs(tensor).contiguous()
            for place, tensor in enumerate(tensors)
        ]  # held: the addresses are theirs
        self.native = module.law_heads(
            [address(tensor) for tensor in self._tensors], paired, units, self.width
        )


def _by_inputs(weight_UI: Tensor) -> Tensor:
    """[units / 128, inputs, 128]: what an input adds to neighbouring units lies side by side."""
    units, inputs = weight_UI.shape
    assert units % _TOGETHER == 0
    return weight_UI.view(-1, _TOGETHER, inputs).transpose(1, 2)


def _pairs(weight_UI: Tensor) -> Tensor:
    """[units / 128, inputs / 2, 128, 2] in bfloat16, the inputs rounded up: half of the bytes, and the same numbers."""
    even = functional.pad(weight_UI, (0, weight_UI.shape[1] % 2))
    grouped = _by_inputs(even)
    return grouped.unflatten(1, (-1, 2)).transpose(2, 3).to(torch.bfloat16).contiguous()


def fits_bfloat16(tensor: Tensor) -> bool:
    """Whether its numbers are the same there."""
    return torch.equal(tensor.to(torch.bfloat16).float(), tensor)


def decoding_laws(
    weights: HeadWeights, hidden_BD: Tensor, logits_BV: Tensor, rows: Sequence[int]
) -> list[tuple[float, float]]:
    """(temperature, top_p) of each of `rows`; each row is computed alone.

    Args:
        hidden_BD, logits_BV: float32 on the CPU, rows of neighbouring numbers.
    """
    module = native()
    assert module is not None
    assert logits_BV.stride(1) == 1
    assert hidden_BD.shape[1] == weights.width
    return module.decoding_laws(
        weights.native, logits_BV.shape[1], logits_BV.stride(0), address(hidden_BD), logits_BV.data_ptr(), list(rows)
    )  # fmt: skip
