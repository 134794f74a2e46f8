"""Activation-aware weight quantisation (AWQ, arXiv 2306.00978): inputs that are large on average get finer steps.

W is quantised as W diag(s), and its inputs come divided by s, which is folded into what makes them. s = mean|x|^r, floored at
1e-4 and divided by sqrt(max s min s); r is the one of 20 in [0, 1) with the least error of the outputs of the maps that read
these inputs. Then each group's range is shrunk, in 20 steps down to a half, to where its own part of the output error is least.
Both errors are taken by second moments of the inputs, exactly, in place of a sample of tokens.

N outputs, K inputs, G groups, k inputs of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hanok.compression.grid import Codes, encode, find_grid
from hanok.compression.hessian import output_error
from hanok.compression.rtn import rtn

STEPS = 20


def awq_scales(
    weights: Sequence[Tensor],
    hessian_KK: Tensor,
    mean_abs_K: Tensor,
    bits: int,
    group: int,
    *,
    symmetric: bool = True,
) -> Tensor:
    """s_K float32, of maps [N, K] that read the same inputs; all 1 where nothing is better than rounding to the nearest."""
    best_K, least = torch.ones_like(mean_abs_K, dtype=torch.float32), torch.inf
    for step in range(STEPS):
        scale_K = mean_abs_K.float().pow(step / STEPS).clamp(min=1e-4)
        scale_K = scale_K / (scale_K.max() * scale_K.min()).sqrt()
        error = 0.0
        for weight_NK in weights:
            weight_NK = weight_NK.detach().float()
            found = rtn(weight_NK * scale_K, bits, group, symmetric=symmetric).values() / scale_K
            error += output_error(weight_NK - found, hessian_KK)
        if error < least:
            best_K, least = scale_K, error
    return best_K


def scaled_hessian(hessian_KK: Tensor, scale_K: Tensor) -> Tensor:
    """That of the inputs divided by s."""
    return hessian_KK / scale_K.double() / scale_K.double()[:, None]


def awq_clip(
    weight_NK: Tensor, hessian_KK: Tensor, bits: int, group: int, *, symmetric: bool = True
) -> Codes:
    """Codes of a map on the ranges with the least error, group by group. Raises ConfigError as `find_grid`."""
    weight_NK = weight_NK.detach().float()
    full = find_grid(weight_NK, bits, group, symmetric=symmetric)
    diagonal_Gkk = _blocks(hessian_KK, group)
    scales_NG, least_NG = full.scales_NG, torch.full_like(full.scales_NG, torch.inf)
    for step in range(STEPS):
        grid = full.shrunk(1 - step / (2 * STEPS))
        lost_NGk = (weight_NK - grid.values(grid.round(weight_NK))).unflatten(1, (-1, group))
        error_NG = (torch.einsum("ngk,gkl->ngl", lost_NGk, diagonal_Gkk) * lost_NGk).sum(-1)
        scales_NG = torch.where(error_NG < least_NG, grid.scales_NG, scales_NG)
        least_NG = torch.minimum(error_NG, least_NG)
    return encode(weight_NK, replace(full, scales_NG=scales_NG))


def _blocks(hessian_KK: Tensor, group: int) -> Tensor:
    """The groups' own moments, float32 [G, k, k]."""
    parts = hessian_KK.float().unflatten(0, (-1, group)).unflatten(2, (-1, group))
    return parts.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
