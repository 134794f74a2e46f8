"""GPTQ (arXiv 2210.17323): column by column, what rounding a column loses is made up for in those not yet rounded.

With U^T U = H^-1, upper: e = (w_i - q_i) / U_ii, and w_j -= e U_ij for j > i; in blocks, so that the columns behind a block are
touched once a block. A group's grid is found from the weights as they stand when it is reached, or (static groups) from the
weights as they were. Activation order takes the columns with the largest inputs first; its groups are static here, since
the codes would otherwise need an index of groups that the kernels do not take.

N outputs, K inputs, B columns of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.compression.grid import Codes, Grid, find_grid
from hanok.compression.hessian import inverse_factor, without_dead

BLOCK = 128


def gptq(
    weight_NK: Tensor,
    hessian_KK: Tensor,
    bits: int,
    group: int,
    *,
    symmetric: bool = True,
    damp: float = 0.01,
    act_order: bool = False,
    static_groups: bool = False,
    block: int = BLOCK,
    keep_NK: Tensor | None = None,
) -> Codes:
    """Args:
        hessian_KK: as `hessian_of` the calibration inputs.
        damp: part of the mean diagonal added to it.
        act_order: columns with the largest diagonal first, in static groups.
        block: columns between two updates of the rest; raised to whole groups, unless those are static.
        keep_NK: weights that were pruned before (False) stay 0, and what would have come to them goes to those behind.

    Raises:
        ConfigError, InputError: as `find_grid` and `inverse_factor`.
    """
    weight_NK, hessian_KK = without_dead(weight_NK, hessian_KK)
    grid = find_grid(weight_NK, bits, group, symmetric=symmetric)
    inputs = weight_NK.shape[1]
    order_K = torch.arange(inputs)
    if act_order:
        order_K = hessian_KK.diagonal().argsort(descending=True, stable=True)
        hessian_KK = hessian_KK[order_K][:, order_K]
    u_KK = inverse_factor(hessian_KK, damp)
    del hessian_KK
    w_NK, q_NK = weight_NK[:, order_K], torch.zeros_like(weight_NK)
    static = static_groups or act_order or group == inputs  # the only group is found before anything moves
    block = block if static else -(-block // group) * group
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        w_NB, u_BB = w_NK[:, start:stop].clone(), u_KK[start:stop, start:stop]
        errors_NB = torch.zeros_like(w_NB)
        for i in range(stop - start):
            where = int(order_K[start + i])
            if not static and i % group == 0:
                _renew(grid, where // group, w_NB[:, i : i + group])
            one = grid.column(where // group)
            q_N1 = one.round(w_NB[:, i : i + 1])
            if keep_NK is not None:
                q_N1 = torch.where(keep_NK[:, where, None], q_N1, one.zeros_NG)
            q_NK[:, where] = q_N1[:, 0]
            errors_NB[:, i] = (w_NB[:, i] - one.values(q_N1)[:, 0]) / u_BB[i, i]
            w_NB[:, i + 1 :] -= errors_NB[:, i, None] * u_BB[i, i + 1 :]
        w_NK[:, stop:] -= errors_NB @ u_KK[start:stop, stop:]
    return Codes(q_NK.to(torch.int16), grid)


def _renew(grid: Grid, group: int, w_Nk: Tensor) -> None:
    found = find_grid(w_Nk, grid.bits, w_Nk.shape[1], symmetric=grid.symmetric)
    grid.scales_NG[:, group], grid.zeros_NG[:, group] = found.scales_NG[:, 0], found.zeros_NG[:, 0]
