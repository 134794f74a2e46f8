"""Half-quadratic quantisation (HQQ, mobiusml/hqq): no data; a norm below 1 lets outliers of the weight stay outliers.

    minimise over the grid  sum |e|^p  with e ~ W - Wr, by turns:
        e = shrink(W - Wr, beta),   shrink(x) = sign(x) relu(|x| - |x|^(p-1) / beta)
        zero = mean over the group of q - (W - e) / scale         (asymmetric: the scale stays)
        scale = <q, W - e> / <q, q>                               (symmetric: files whose grid has no zero points)
        beta *= 1.01

A group keeps the best that it has met by mean |W - Wr|, rounding to the nearest included, so it is never worse by that measure.

N outputs, K inputs, G groups, k inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.compression.grid import Codes, Grid, encode, find_grid

NORM, BETA, GROWTH, STEPS = 0.7, 10.0, 1.01, 20


def hqq(weight_NK: Tensor, bits: int, group: int, *, symmetric: bool = False) -> Codes:
    """Zeros need not be whole numbers. Raises ConfigError as `find_grid`."""
    w_NGk = weight_NK.detach().float().unflatten(1, (-1, group))
    grid = best = find_grid(weight_NK, bits, group, symmetric=symmetric)
    least_NG, beta, last = None, BETA, torch.inf
    for _ in range(STEPS):
        q_NGk = grid.round(w_NGk.flatten(1)).view_as(w_NGk)
        lost_NGk = w_NGk - grid.values(q_NGk.flatten(1)).view_as(w_NGk)
        error_NG = lost_NGk.abs().mean(-1)
        best, least_NG = (grid, error_NG) if least_NG is None else _better(best, least_NG, grid, error_NG)
        if not error_NG.mean() < last:
            break
        last = float(error_NG.mean())
        target_NGk = w_NGk - shrink(lost_NGk, beta)
        grid = _scaled(grid, q_NGk, target_NGk) if symmetric else _shifted(grid, q_NGk, target_NGk)
        beta *= GROWTH
    return encode(weight_NK, best)


def shrink(x: Tensor, beta: float) -> Tensor:
    """Generalised soft threshold of |x|^p."""
    size = x.abs()
    return x.sign() * (size - size.clamp(min=1e-12).pow(NORM - 1) / beta).relu()


def _shifted(grid: Grid, q_NGk: Tensor, target_NGk: Tensor) -> Grid:
    scales = grid.scales_NG[..., None]
    zeros_NG = (q_NGk - torch.where(scales == 0, 0.0, target_NGk / scales)).mean(-1)
    return Grid(grid.scales_NG, zeros_NG, grid.bits, symmetric=False)


def _scaled(grid: Grid, q_NGk: Tensor, target_NGk: Tensor) -> Grid:
    square_NG = q_NGk.square().sum(-1)
    scales_NG = torch.where(
        square_NG == 0, grid.scales_NG, (q_NGk * target_NGk).sum(-1) / square_NG.clamp(min=1)
    )
    return Grid(scales_NG.half().float(), grid.zeros_NG, grid.bits, symmetric=True)


def _better(best: Grid, least_NG: Tensor, grid: Grid, error_NG: Tensor) -> tuple[Grid, Tensor]:
    won_NG = error_NG < least_NG
    merged = Grid(
        torch.where(won_NG, grid.scales_NG, best.scales_NG),
        torch.where(won_NG, grid.zeros_NG, best.zeros_NG),
        grid.bits,
        symmetric=grid.symmetric,
    )
    return merged, torch.minimum(error_NG, least_NG)
