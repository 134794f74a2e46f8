"""Linear maps whose float32 master weights are cast to the compute type at use, alone or several in one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.kernels.norms import rms_norm


class Linear(nn.Module):
    """y = x W^T in `x.dtype`; the weight [out, in] keeps its own type."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def joined_linear(x: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Several maps of one input as one matrix product, their outputs side by side: small products waste a core."""
    return F.linear(x, torch.cat([layer.weight for layer in layers]).to(x.dtype))


def fused_linear(x: Tensor, layers: Sequence[Linear]) -> tuple[Tensor, ...]:
    """`joined_linear`, the outputs one by one."""
    return joined_linear(x, layers).split([layer.weight.shape[0] for layer in layers], dim=-1)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, computed in float32, returned in the type of x."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
