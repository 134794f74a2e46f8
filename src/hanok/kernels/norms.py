"""Norms of rows, each forward and backward in one native pass, or in PyTorch where the extension is not built.

N rows or tokens, D width of a row, H heads, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.native import address, native, runs_native


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32, in the type of x (arXiv 1910.07467)."""
    if runs_native(x_ND):
        return _RmsNorm.apply(x_ND.contiguous(), weight_D.float().contiguous(), eps)  # type: ignore[return-value]
    return F.rms_norm(x_ND.float(), (x_ND.shape[-1],), weight_D.float(), eps).to(x_ND.dtype)


def gated_rms_norm(o_NHK: Tensor, gate_NHK: Tensor, weight_K: Tensor, eps: float) -> Tensor:
    """rms_norm(o) * sigmoid(gate), in the type of the gate; o is float32 (arXiv 2510.26692, equation 10)."""
    if runs_native(gate_NHK):
        inputs = (o_NHK.float().contiguous(), gate_NHK.contiguous(), weight_K.float().contiguous())
        return _GatedNorm.apply(*inputs, eps)  # type: ignore[return-value]
    normed = F.rms_norm(o_NHK.float(), (o_NHK.shape[-1],), weight_K.float(), eps)
    return (normed * gate_NHK.float().sigmoid()).to(gate_NHK.dtype)


def split_normalised(qkv_N3HK: Tensor, heads: int, eps: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    """[N, 3HK] float32 to q, k, v [N, H, K]; each head of q and k is divided by its 2-norm, sqrt(sum(x^2) + eps)."""
    n, width = qkv_N3HK.shape[0], qkv_N3HK.shape[1] // (3 * heads)
    if runs_native(qkv_N3HK) and qkv_N3HK.dtype == torch.float32:
        return _Split.apply(qkv_N3HK.contiguous(), heads, eps)  # type: ignore[return-value]
    q, k, v = (x.reshape(n, heads, width) for x in qkv_N3HK.chunk(3, dim=-1))
    return _unit(q, eps), _unit(k, eps), v


def _unit(x_NHK: Tensor, eps: float) -> Tensor:
    return x_NHK * torch.rsqrt(x_NHK.square().sum(-1, keepdim=True) + eps)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        y, rstd = torch.empty_like(x), torch.empty(rows)
        half = x.dtype == torch.bfloat16
        native().rms_norm_forward([address(t) for t in (x, weight, y, rstd)], rows, width, half, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        d_y, d_x, d_weight = grads[0].contiguous(), torch.empty_like(x), torch.empty_like(weight)
        tensors = (d_y, x, weight, rstd, d_x, d_weight)
        native().rms_norm_backward(
            [address(t) for t in tensors], len(rstd), x.shape[-1], x.dtype == torch.bfloat16
        )
        return d_x, d_weight, None


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, width = o.numel() // o.shape[-1], o.shape[-1]
        y, rstd = torch.empty_like(gate), torch.empty(rows)
        half = gate.dtype == torch.bfloat16
        native().gated_norm_forward([address(t) for t in (o, gate, weight, y, rstd)], rows, width, half, eps)
        ctx.save_for_backward(o, gate, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        o, gate, weight, rstd = ctx.saved_tensors
        d_y = grads[0].contiguous()
        results = (torch.empty_like(o), torch.empty_like(gate), torch.empty_like(weight))
        tensors = (d_y, o, gate, weight, rstd, *results)
        native().gated_norm_backward(
            [address(t) for t in tensors], len(rstd), o.shape[-1], gate.dtype == torch.bfloat16
        )
        return (*results, None)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, width = qkv.shape[0], qkv.shape[1] // (3 * heads)
        q, k, v = (torch.empty(n, heads, width) for _ in range(3))
        native().split_forward([address(t) for t in (qkv, q, k, v)], n, heads, width, eps)
        ctx.save_for_backward(qkv)
        ctx.settings = (n, heads, width, eps)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        tensors = (qkv, *(grad.contiguous() for grad in grads), torch.empty_like(qkv))
        native().split_backward([address(t) for t in tensors], *ctx.settings)
        return tensors[-1], None, None
