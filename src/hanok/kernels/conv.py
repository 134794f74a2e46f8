"""Short causal depthwise convolution over a ragged batch: y_t = act(sum_j w_j x_{t-W+1+j}), reset at boundaries.

N tokens, B sequences, D channels, W taps.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.native import address, native, runs_native

Activation = Literal["silu"] | None
MOST_TAPS = 8  # of the native form


def short_conv(
    x_ND: Tensor, weight_DW: Tensor, cu_seqlens: Tensor,
    initial_state_BDW1: Tensor | None = None, activation: Activation = "silu", output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Returns y_ND (float32) of x_ND (float32 or bfloat16) and, if asked for, the last W-1 inputs of each sequence,
    [B, D, W-1], oldest first."""
    taps = weight_DW.shape[1]
    if runs_native(x_ND) and taps <= MOST_TAPS:
        x_ND = x_ND.contiguous()
        initial = initial_state_BDW1
        if initial is not None:
            initial = initial.transpose(1, 2).to(x_ND.dtype).contiguous()
        bounds = cu_seqlens.to(torch.int32).contiguous()
        y_ND = _Conv.apply(x_ND, weight_DW.float().contiguous(), initial, bounds, activation == "silu")
    else:
        y_ND = reference_conv(x_ND.float(), weight_DW.float(), cu_seqlens, initial_state_BDW1, activation)
    state = _last_inputs(x_ND, cu_seqlens, initial_state_BDW1, taps) if output_final_state else None
    return y_ND, state  # type: ignore[return-value]


def conv_step(x_BD: Tensor, weight_DW: Tensor, state_BDW1: Tensor) -> tuple[Tensor, Tensor]:
    """One token of each sequence, with SiLU: y_BD and the new last inputs, float32. Nothing in it asks the host."""
    inputs_BDW = torch.cat([state_BDW1.float(), x_BD.float()[..., None]], dim=-1)
    return F.silu((inputs_BDW * weight_DW.float()).sum(-1)), inputs_BDW[..., 1:]


def reference_conv(
    x_ND: Tensor,
    weight_DW: Tensor,
    cu_seqlens: Tensor,
    initial_state_BDW1: Tensor | None,
    activation: Activation,
) -> Tensor:
    """The same as shifts and sums."""
    taps = weight_DW.shape[1]
    lengths_B = cu_seqlens[1:] - cu_seqlens[:-1]
    sequence_N = torch.repeat_interleave(torch.arange(len(lengths_B), device=x_ND.device), lengths_B.long())
    position_N = torch.arange(x_ND.shape[0], device=x_ND.device) - cu_seqlens[:-1].long()[sequence_N]
    y_ND = x_ND * weight_DW[:, -1]
    for back in range(1, taps):
        shifted = F.pad(x_ND, (0, 0, back, 0))[: x_ND.shape[0]]
        inside = (position_N >= back)[:, None]
        if initial_state_BDW1 is None:
            shifted = shifted * inside
        else:
            column = (position_N - back + taps - 1).clamp(0, taps - 2)
            earlier = initial_state_BDW1[sequence_N, :, column].to(x_ND.dtype)
            shifted = torch.where(inside, shifted, earlier)
        y_ND = y_ND + shifted * weight_DW[:, -1 - back]
    return F.silu(y_ND) if activation == "silu" else y_ND


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, initial: Tensor | None, bounds: Tensor, silu: bool
    ) -> Tensor:
        shape = [bounds.shape[0] - 1, x.shape[1], weight.shape[1]]
        y = torch.empty(x.shape)
        pointers = [address(t) for t in (x, initial, weight, bounds, y)]
        native().conv_forward(pointers, shape, silu, x.dtype == torch.bfloat16)
        ctx.save_for_backward(x, weight, initial, bounds)
        ctx.settings = (shape, silu)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, initial, bounds = ctx.saved_tensors
        shape, silu = ctx.settings
        d_y, d_x, d_weight = grads[0].contiguous(), torch.empty_like(x), torch.empty_like(weight)
        d_initial = None if initial is None else torch.empty(initial.shape)
        tensors = (x, initial, weight, bounds, d_y, d_x, d_weight, d_initial)
        native().conv_backward([address(t) for t in tensors], shape, silu, x.dtype == torch.bfloat16)
        return d_x, d_weight, None if d_initial is None else d_initial.to(x.dtype), None, None


def _last_inputs(x_ND: Tensor, cu_seqlens: Tensor, initial_BDW1: Tensor | None, taps: int) -> Tensor:
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    index_BW = ends[:, None] + torch.arange(1 - taps, 0, device=x_ND.device)
    inside = index_BW >= starts[:, None]
    state = x_ND[index_BW.clamp(min=0)] if x_ND.shape[0] else x_ND.new_zeros(*index_BW.shape, x_ND.shape[1])
    if initial_BDW1 is None:
        before = torch.zeros_like(state)
    else:
        column = (index_BW - starts[:, None] + taps - 1).clamp(0, taps - 2)
        before = initial_BDW1.transpose(1, 2).gather(1, column[..., None].expand(-1, -1, x_ND.shape[1]))
    return torch.where(inside[..., None], state, before.to(state.dtype)).transpose(1, 2).float().contiguous()
