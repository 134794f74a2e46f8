"""Decoding heads in one native call: temperature and top-p of some rows. `models/decoding.py` is the specification.

B rows of a step, R of them wanted, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.kernels.native import address, native


def decoding_laws(
    weights: Sequence[Tensor], hidden_BD: Tensor, logits_BV: Tensor, rows: Sequence[int]
) -> list[list[float]]:
    """[temperature, top_p] of each of `rows`; each row is computed alone.

    Args:
        weights: float32, contiguous: first map, its bias, second map, its bias of the temperature head, then of the other.
        hidden_BD, logits_BV: float32 on the CPU, rows of neighbouring numbers.
    """
    module = native()
    assert module is not None
    assert hidden_BD.is_contiguous()
    assert logits_BV.stride(1) == 1
    laws_R2 = torch.empty(len(rows), 2)
    shape = [weights[0].shape[0], hidden_BD.shape[1], logits_BV.shape[1], logits_BV.stride(0)]
    module.decoding_laws(
        list(map(address, weights)),
        shape,
        address(hidden_BD),
        logits_BV.data_ptr(),
        list(rows),
        address(laws_R2),
    )
    return laws_R2.tolist()
