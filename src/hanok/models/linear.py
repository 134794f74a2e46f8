"""Linear maps whose master weights are cast to the compute type at use, alone or several in one product; norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.kernels.norms import rms_norm
from hanok.models.config import ModelConfig


class LowRank(nn.Module):
    """scale * x A^T B^T (LoRA, arXiv 2106.09685): A [rank, in], B [out, rank]. Dropout on x, in training alone."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, scale: float, dropout: float) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.empty(outputs, rank))
        self.scale, self.dropout, self.active = scale, dropout, True

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        return F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scale

    def delta(self) -> Tensor:
        """The low-rank product, [out, in] in float32 or what is wider."""
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.scale * (self.lora_B.to(wide) @ self.lora_A.to(wide))

    def added(self, x: Tensor, product: Tensor, weight: Tensor) -> Tensor:
        """What comes on top of `product` = x W^T, the bias not in it; `weight` is W."""
        return self(x)

    def change(self, weight: Tensor) -> Tensor:
        """What it adds to this weight, [out, in] in float32 or what is wider."""
        return self.delta()


class RowAdapter(NamedTuple):
    """A low-rank addition for some rows of a batch alone (`lora_rows.py`): the first `real` of `rows_M`; others repeat one."""

    low: LowRank
    rows_M: Tensor
    real: int


class Linear(nn.Module):
    """y = x W^T + b in `x.dtype`; the weight [out, in] and the bias, if there is one, keep their own type.

    `adapters`: low-rank additions by name (`lora.py`); those that are active are summed, each made for the weight alone.
    `on_rows`: additions for rows of their own.
    `product`: how x W^T is made, where the weight is not kept as a matrix of its own (`engine/device/weights.py`); `joined`: the
    same of all the maps that this one leads in `joined_linear`.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.adapters: nn.ModuleDict | None = None
        self.on_rows: tuple[RowAdapter, ...] = ()
        self.product: Callable[[Tensor], Tensor] | None = None
        self.joined: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.product is not None:
            y = self.product(x)
            return self.with_adapters(x, y if self.bias is None else y + self.bias.to(y.dtype))
        y = F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        return self.with_adapters(x, y)

    def with_adapters(self, x: Tensor, y: Tensor) -> Tensor:
        """What they add to the product y of x."""
        adapters = self.active_adapters()
        if adapters:
            product = y if self.bias is None else y - self.bias.to(y.dtype)
            for adapter in adapters:
                y = y + adapter.added(x, product, self.weight)
        for low, rows_M, real in self.on_rows:
            y = y.index_add(0, rows_M[:real], low(x[rows_M])[:real])
        return y

    def active_adapters(self) -> list[LowRank]:
        if self.adapters is None:
            return []
        found = [a for a in self.adapters.values() if isinstance(a, LowRank)]
        return [adapter for adapter in found if adapter.active]

    def effective_weight(self) -> Tensor:
        """[out, in] with the active adapters in it, for those who need the matrix itself."""
        adapters = self.active_adapters()
        if not adapters:
            return self.weight
        return self.weight + torch.stack([adapter.change(self.weight) for adapter in adapters]).sum(0).to(
            self.weight.dtype
        )


def joined_linear(x: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Several maps of one input as one matrix product, their outputs side by side: small products waste a core.

    Forward pre-hooks of the maps see the input as if each were called; they may not change it.
    """
    for layer in layers:
        for hook in layer._forward_pre_hooks.values():
            hook(layer, (x,))
    bias = _joined_bias(x, layers) if any(layer.bias is not None for layer in layers) else None
    if layers[0].joined is not None:
        y = layers[0].joined(x)
        y = y if bias is None else y + bias
    else:
        y = F.linear(x, torch.cat([layer.weight for layer in layers]).to(x.dtype), bias)
    if not any(layer.on_rows or layer.active_adapters() for layer in layers):
        return y
    parts = y.split([layer.weight.shape[0] for layer in layers], dim=-1)
    return torch.cat([layer.with_adapters(x, part) for part, layer in zip(parts, layers, strict=True)], -1)


def _joined_bias(x: Tensor, layers: Sequence[Linear]) -> Tensor:
    parts = [x.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias for layer in layers]
    return torch.cat([part.to(x.dtype) for part in parts])


def fused_linear(x: Tensor, layers: Sequence[Linear]) -> tuple[Tensor, ...]:
    """`joined_linear`, the outputs one by one."""
    return joined_linear(x, layers).split([layer.weight.shape[0] for layer in layers], dim=-1)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (weight + offset), computed in float32, returned in the type of x."""

    def __init__(self, width: int, eps: float, *, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.float() + self.offset if self.offset else self.weight, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias (arXiv 1607.06450), computed in float32, in the type of x."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), self.eps)
        return y.to(x.dtype)


Norm = RMSNorm | LayerNorm


def new_norm(config: ModelConfig, width: int) -> Norm:
    """The kind that the configuration asks for."""
    if config.norm == "layer":
        return LayerNorm(width, config.norm_eps)
    return RMSNorm(width, config.norm_eps, offset=float(config.norm == "rms_plus_one"))
