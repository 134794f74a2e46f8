"""Gates of rows, each forward and backward in one native pass, or in PyTorch where the extension is not built.

N tokens, I inner width, H heads, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.native import address, native, runs_native


def swiglu(x_N2I: Tensor) -> Tensor:
    """silu(first half) * second half of each row, in the type of x (arXiv 2002.05202)."""
    if runs_native(x_N2I):
        return _SwiGLU.apply(x_N2I.contiguous())  # type: ignore[return-value]
    gate, up = x_N2I.chunk(2, dim=-1)
    return F.silu(gate) * up


def log_decay(raw_NI: Tensor, rate_H: Tensor, bias_I: Tensor, lower_bound: float | None) -> Tensor:
    """Log decay <= 0 of each key channel, float32 [N, H, K] (arXiv 2510.26692, section 4; the bounded form of its kernels).

    -rate * softplus(raw + bias), or lower_bound * sigmoid(rate * (raw + bias)).

    Args:
        lower_bound: negative, or None for the unbounded form.
    """
    heads = len(rate_H)
    if runs_native(raw_NI):
        inputs = (raw_NI.contiguous(), rate_H.float().contiguous(), bias_I.float().contiguous())
        g_NI = _LogDecay.apply(*inputs, lower_bound or 0.0)
    else:
        x = (raw_NI.float() + bias_I.float()).view(len(raw_NI), heads, -1)
        rate_H1 = rate_H.float()[:, None]
        g_NI = (
            -rate_H1 * F.softplus(x) if lower_bound is None else lower_bound * (rate_H1 * x).sigmoid()
        ).flatten(1)
    return g_NI.view(len(raw_NI), heads, -1)  # type: ignore[union-attr]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        ctx.shape = (x.numel() // x.shape[-1], y.shape[-1], x.dtype == torch.bfloat16)
        native().swiglu_forward([address(x), address(y)], *ctx.shape)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d_y, d_x = grads[0].contiguous(), torch.empty_like(x)
        native().swiglu_backward([address(t) for t in (d_y, x, d_x)], *ctx.shape)
        return d_x


class _LogDecay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, rate: Tensor, bias: Tensor, bound: float) -> Tensor:
        g = torch.empty(raw.shape)
        heads = len(rate)
        ctx.shape = (len(raw), heads, raw.shape[1] // heads, raw.dtype == torch.bfloat16, bound)
        native().decay_forward([address(t) for t in (raw, rate, bias, g)], *ctx.shape)
        ctx.save_for_backward(raw, rate, bias)
        return g

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        raw, rate, bias = ctx.saved_tensors
        results = tuple(torch.empty_like(t) for t in (raw, rate, bias))
        tensors = (raw, rate, bias, grads[0].contiguous(), *results)
        native().decay_backward([address(t) for t in tensors], *ctx.shape)
        return (*results, None)  # type: ignore[return-value]
