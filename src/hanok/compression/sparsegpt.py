"""SparseGPT (arXiv 2301.00774): prunes by w^2 / U_ii^2, and makes up for each loss in the columns that follow, as GPTQ does.

A share of each block of columns, all rows together, or `drop` of `of` neighbours when these are reached.

N outputs, K inputs, B columns of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.compression.hessian import inverse_factor, without_dead
from hanok.compression.prune import Sparsity, keep_mask

BLOCK = 128


def sparsegpt(
    weight_NK: Tensor, hessian_KK: Tensor, sparsity: Sparsity, *, damp: float = 0.01, block: int = BLOCK
) -> Tensor:
    """The pruned weight, float32, what is left moved to make up. Raises as `Sparsity.check` and `inverse_factor`."""
    sparsity.check(weight_NK.shape[1])
    w_NK, hessian_KK = without_dead(weight_NK, hessian_KK)
    u_KK = inverse_factor(hessian_KK, damp)
    inputs, of = w_NK.shape[1], sparsity.of
    block = -(-block // of) * of if of else block
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        w_NB, u_BB = w_NK[:, start:stop], u_KK[start:stop, start:stop]
        diagonal_B = u_BB.diagonal()
        errors_NB = torch.zeros_like(w_NB)
        keep_NB = torch.ones_like(w_NB, dtype=torch.bool) if of else _best(w_NB / diagonal_B, sparsity.share)
        for i in range(stop - start):
            if of and i % of == 0:
                here = slice(i, i + of)
                keep_NB[:, here] = keep_mask((w_NB[:, here] / diagonal_B[here]).abs(), sparsity)
            lost_N = torch.where(keep_NB[:, i], 0.0, w_NB[:, i])
            errors_NB[:, i] = lost_N / diagonal_B[i]
            w_NB[:, i] -= lost_N
            w_NB[:, i + 1 :] -= errors_NB[:, i, None] * u_BB[i, i + 1 :]
        w_NK[:, stop:] -= errors_NB @ u_KK[start:stop, stop:]
    return w_NK


def _best(scores_NB: Tensor, share: float) -> Tensor:
    """False at the smallest of the whole block."""
    flat = Sparsity(share=share)
    return keep_mask(scores_NB.abs().reshape(1, -1), flat).view_as(scores_NB)
