"""Decoding heads in one native call: temperature and top-p of some rows. `models/decoding.py` is the specification.

B rows of a step, R of them wanted, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.kernels.native import address, native


class HeadWeights:
    """Args: tensors: float32: first map, its bias, second map, its bias of the temperature head, then of the other."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [tensor.contiguous() for tensor in tensors]  # held: the addresses are theirs
        self.addresses = [address(tensor) for tensor in self._tensors]
        self.units, self.width = self._tensors[0].shape


def decoding_laws(
    weights: HeadWeights, hidden_BD: Tensor, logits_BV: Tensor, rows: Sequence[int]
) -> list[list[float]]:
    """[temperature, top_p] of each of `rows`; each row is computed alone.

    Args:
        hidden_BD, logits_BV: float32 on the CPU, rows of neighbouring numbers.
    """
    module = native()
    assert module is not None
    assert hidden_BD.is_contiguous()
    assert logits_BV.stride(1) == 1
    laws_R2 = torch.empty(len(rows), 2)
    assert hidden_BD.shape[1] == weights.width
    shape = [weights.units, weights.width, logits_BV.shape[1], logits_BV.stride(0)]
    module.decoding_laws(
        weights.addresses,
        shape,
        address(hidden_BD),
        logits_BV.data_ptr(),
        list(rows),
        address(laws_R2),
    )
    return laws_R2.tolist()
