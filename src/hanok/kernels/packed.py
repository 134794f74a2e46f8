"""Matrices as the processor reads them: 16 outputs side by side, a group's scales with them (`native_src/step.h`).

The image is made from a model's weights when it is loaded; on disk it is a cache at most (`engine/images.py`).
N outputs (padded to a multiple of 16), K inputs (padded to one of 32), G groups of 32, M rows of input.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.formats import GROUP, Quantised, quantise
from hanok.kernels.native import address, native

Kind = Literal["bf16", "int8", "int4"]
KINDS: tuple[Kind, ...] = ("bf16", "int8", "int4")
_LANES = 16
_LINE, _PAGE = 64, 1 << 21


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A linear map; `rows` and `cols` are padded. Keeps what the native side points to."""

    kind: Kind
    rows: int
    cols: int
    weights: Tensor
    scales: Tensor | None
    bias: Tensor | None
    native: Any

    def take_over(self, other: PackedMatrix) -> None:
        """The numbers of another of the same kind and shape, in place."""
        for mine, theirs in (
            (self.weights, other.weights),
            (self.scales, other.scales),
            (self.bias, other.bias),
        ):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)

    @property
    def nbytes(self) -> int:
        return self.weights.numel() + (0 if self.scales is None else 2 * self.scales.numel())


def restore(
    kind: Kind, rows: int, cols: int, weights: Tensor, scales: Tensor | None, bias: Tensor | None
) -> PackedMatrix:
    """A matrix from its own parts, copied."""
    image = _aligned(weights.numel())
    image.copy_(weights.flatten())
    scales, bias = (None if part is None else part.clone() for part in (scales, bias))
    matrix = native().matrix(KINDS.index(kind), rows, cols, address(image), address(scales), address(bias))
    return PackedMatrix(kind, rows, cols, image, scales, bias, matrix)


def pack(weight_NK: Tensor, kind: Kind, *, bias_N: Tensor | None = None) -> PackedMatrix:
    """Quantise, if the kind is of integers, and lay out."""
    padding = (0, -weight_NK.shape[1] % GROUP, 0, -weight_NK.shape[0] % _LANES)
    weight_NK = F.pad(weight_NK, padding) if any(padding) else weight_NK
    if kind == "bf16":
        numbers = weight_NK.to(torch.bfloat16).contiguous().view(torch.uint8)
        return _image(_interleaved(numbers), None, kind, weight_NK, bias_N)
    return pack_quantised(quantise(weight_NK, 8 if kind == "int8" else 4), bias_N=bias_N)


def pack_stacked(
    weight: Callable[[int], Tensor], count: int, kind: Kind, *, bias: Callable[[int], Tensor] | None = None
) -> PackedMatrix:
    """`count` maps of one shape, each padded by itself, one behind the other; only one at a time is in memory twice."""
    first = pack(weight(0), kind, bias_N=None if bias is None else bias(0))
    image = _aligned(count * first.weights.numel())
    scales = None if first.scales is None else first.scales.new_empty(count, *first.scales.shape)
    biases = None if first.bias is None else first.bias.new_empty(count, first.rows)
    for number in range(count):
        one = pack(weight(number), kind, bias_N=None if bias is None else bias(number)) if number else first
        for whole, part in ((image.view(count, -1), one.weights), (scales, one.scales), (biases, one.bias)):
            if whole is not None and part is not None:
                whole[number] = part
    rows = count * first.rows
    matrix = native().matrix(
        KINDS.index(kind), rows, first.cols, address(image), address(scales), address(biases)
    )
    return PackedMatrix(kind, rows, first.cols, image, scales, biases, matrix)


def pack_quantised(weight: Quantised, *, bias_N: Tensor | None = None) -> PackedMatrix:
    """Without loss: N must be a multiple of 16."""
    q_NK, groups = weight.q_NK, weight.scales_NG.shape[1]
    scales = weight.scales_NG.view(-1, _LANES, groups).permute(0, 2, 1).contiguous()
    if weight.bits == 8:
        return _image(_interleaved((q_NK ^ -128).view(torch.uint8)), scales, "int8", q_NK, bias_N)
    halves = (q_NK + 8).view(torch.uint8).unflatten(1, (-1, 2, 4))
    both = (halves[:, :, 0] | (halves[:, :, 1] << 4)).flatten(1)
    return _image(_interleaved(both), scales, "int4", q_NK, bias_N)


def product(matrix: PackedMatrix, x_MK: Tensor, *, threads: int = 1, path: str = "") -> Tensor:
    """float32 [M, rows]; inputs are rounded to bfloat16, or to int8 with one scale for 32 of them.

    Args:
        x_MK: float32 [M, cols]. path: an instruction set of `native().step_paths()`; "" = the best.
    """
    y = torch.empty(x_MK.shape[0], matrix.rows)
    native().packed_product(matrix.native, address(x_MK), x_MK.shape[0], address(y), threads, path)
    return y


def reference_product(matrix_NK: Quantised | Tensor, x_MK: Tensor) -> Tensor:
    """What `product` computes, in PyTorch: [M, N] float32."""
    if isinstance(matrix_NK, Tensor):
        return x_MK.bfloat16().float() @ matrix_NK.bfloat16().float().mT
    x_MGK = x_MK.unflatten(1, (-1, GROUP))
    most_MG1 = x_MGK.abs().amax(2, keepdim=True)
    q_MGK = (x_MGK * torch.where(most_MG1 > 0, 127 / most_MG1, 0.0)).round()
    return (q_MGK * (most_MG1 / 127)).flatten(1) @ matrix_NK.dequantised().mT


def lazy(count: int, dtype: torch.dtype) -> Tensor:
    """Zeros on large pages that take memory only once they are written; they begin on a page."""
    size = -(-count * dtype.itemsize // _PAGE) * _PAGE
    raw = torch.frombuffer(mmap.mmap(-1, size + _PAGE), dtype=torch.uint8)
    start = -raw.data_ptr() % _PAGE
    native().huge_pages(raw.data_ptr() + start, size)
    return raw[start : start + count * dtype.itemsize].view(dtype)


def _aligned(size: int) -> Tensor:
    """Bytes that begin on a cache line, on large pages where they fill some."""
    if size >= _PAGE:
        return lazy(size, torch.uint8)
    raw = torch.empty(size + _LINE, dtype=torch.uint8)
    start = -raw.data_ptr() % _LINE
    return raw[start : start + size]


def _interleaved(bytes_NB: Tensor) -> Tensor:
    """[N, B] to [N / 16, B / 4, 16, 4]."""
    return bytes_NB.view(-1, _LANES, bytes_NB.shape[1] // 4, 4).permute(0, 2, 1, 3)


def _image(
    weights: Tensor, scales: Tensor | None, kind: Kind, shape_of: Tensor, bias_N: Tensor | None
) -> PackedMatrix:
    rows, cols = shape_of.shape
    image = _aligned(weights.numel())
    image.view(weights.shape).copy_(weights)
    bias = None if bias_N is None else F.pad(bias_N.float(), (0, rows - len(bias_N))).contiguous()
    matrix = native().matrix(KINDS.index(kind), rows, cols, address(image), address(scales), address(bias))
    return PackedMatrix(kind, rows, cols, image, scales, bias, matrix)
