"""Weights in groups: int8, int5 and int4 with one float16 scale for 32 numbers along the input, or for a multiple of 32, and how
they are found.

    w[n, k] ~ scale[n, k // group] * (q[n, k] - zero[n, k // group]),   q in [-128, 127], [-16, 15] or [-8, 7]

Symmetric codes have no zero points; those that are found here are such, of eight bits in [-127, 127]. Zero points are float16 as
the scales, so they need not be whole numbers.

In files the integers lie in words of 32 bits, the lowest bits first, with the middle of their range added (`compressed-tensors`,
"pack-quantized"; GPTQ's words are the same, turned).

N outputs, K inputs, G groups, P words of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hanok.kernels.native import address, native, native_available

GROUP = 32
_ROWS = 4096  # of a matrix quantised together
_NEAR = 1 << 16  # numbers of one, where PyTorch does it: as many as stay in a cache
TRIES = 41  # scales tried for a group of four or five bits: largest / -(first + step n)
_FIRST, _STEP = {4: 5.6, 5: 13.6}, 0.1


@dataclass(frozen=True, slots=True)
class Quantised:
    """q_NK int8, scales_NG float16, bits 8, 5 or 4, zeros_NG float16; None = all are 0."""

    q_NK: Tensor
    scales_NG: Tensor
    bits: int
    zeros_NG: Tensor | None = None

    def dequantised(self) -> Tensor:
        """float32 [N, K]."""
        return _multiplied_out(self.q_NK, self.scales_NG, self.zeros_NG).flatten(-2)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Quantised:
        """The same change of the rows of codes, scales and zero points."""
        zeros_NG = None if self.zeros_NG is None else change(self.zeros_NG)
        return Quantised(change(self.q_NK), change(self.scales_NG), self.bits, zeros_NG)


@dataclass(frozen=True, slots=True)
class Stored:
    """A matrix as its file keeps it: integers that `Quantised` holds without loss, once somebody asks.

    codes: int32 words [N, P] or int8 [N, K]. scales_NG: any floating type, numbers that float16 has; a group is a multiple
    of 32 inputs. cols: K. zeros_NG: any type, numbers that float16 has, beside codes around 0; None = all are 0.
    Matrices of experts are stacked: all parts have one dimension more, in front.
    """

    codes: Tensor
    scales_NG: Tensor
    bits: int
    cols: int
    zeros_NG: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.codes.shape[:-1], self.cols

    def of(self, expert: int) -> Stored:
        """One of a stack."""
        zeros_NG = None if self.zeros_NG is None else self.zeros_NG[expert]
        return replace(self, codes=self.codes[expert], scales_NG=self.scales_NG[expert], zeros_NG=zeros_NG)

    def quantised(self, group: int = GROUP) -> Quantised:
        """A scale of a larger group than asked for stands with each part of it, as does a zero point."""
        repeats = self.cols // group // self.scales_NG.shape[-1]
        assert repeats, "the file's groups are smaller"
        scales_NG, zeros_NG = (
            None if part is None else part.half().repeat_interleave(repeats, dim=-1)
            for part in (self.scales_NG, self.zeros_NG)
        )
        assert scales_NG is not None
        return Quantised(self.integers(), scales_NG, self.bits, zeros_NG)

    def values(self) -> Tensor:
        """[N, K] in the type of the scales."""
        grouped = _multiplied_out(self.integers(), self.scales_NG, self.zeros_NG)
        return grouped.flatten(-2).to(self.scales_NG.dtype)

    def integers(self) -> Tensor:
        return self.codes if self.codes.dtype == torch.int8 else unpack_words(self.codes, self.bits)


def span_of(groups: int, scales: int) -> int:
    """Of a row of so many groups of 32 with so many scales: the logarithm of how many groups share one in an image, a power of
    two."""
    together = groups // scales
    return (together & -together).bit_length() - 1


def stacked_codes(parts: Sequence[Quantised], bits: int) -> Quantised:
    """One below the other."""
    zeros_NG = None
    if any(part.zeros_NG is not None for part in parts):
        zeros_NG = torch.cat([
            torch.zeros_like(part.scales_NG) if part.zeros_NG is None else part.zeros_NG for part in parts
        ])  # fmt: skip
    codes, scales = torch.cat([part.q_NK for part in parts]), torch.cat([part.scales_NG for part in parts])
    return Quantised(codes, scales, bits, zeros_NG)


def _multiplied_out(q_NK: Tensor, scales_NG: Tensor, zeros_NG: Tensor | None) -> Tensor:
    """float32 [..., N, G, inputs of a group]."""
    grouped = q_NK.unflatten(-1, (scales_NG.shape[-1], -1)).float()
    if zeros_NG is not None:
        grouped = grouped.sub_(zeros_NG.float()[..., None])
    return grouped.mul_(scales_NG.float()[..., None])


def pack_words(q_NK: Tensor, bits: int) -> Tensor:
    """int8 [N, K] to int32 [N, P]; K a multiple of 32."""
    if bits == 8:
        bytes_NB = q_NK ^ -128
    else:
        low, high = (q_NK + 8).view(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
        bytes_NB = low | (high << 4)
    # flat: a single row may have any stride and be called contiguous, but is not viewed as words then
    return bytes_NB.flatten().view(torch.int32).view(bytes_NB.shape[0], bytes_NB.shape[1] // 4)


def unpack_words(words_NP: Tensor, bits: int) -> Tensor:
    """The inverse."""
    bytes_NB = words_NP.contiguous().view(torch.uint8)
    if bits == 8:
        return bytes_NB.view(torch.int8) ^ -128
    return torch.stack([bytes_NB & 15, bytes_NB >> 4], dim=-1).flatten(-2).view(torch.int8) - 8


def quantise(weight_NK: Tensor, bits: int, group: int = GROUP) -> Quantised:
    """To the nearest: 8 bits by the largest of a group; fewer by the scale, of several, with the least squared error.

    Args:
        weight_NK: any floating type; K a multiple of the group, which is one of 32.
    """
    assert bits in (4, 5, 8)
    assert weight_NK.shape[1] % group == group % GROUP == 0
    rows = _ROWS if group == GROUP else max(1, _NEAR // weight_NK.shape[1])
    parts = [
        _found(some.float().unflatten(1, (-1, group)).contiguous(), bits) for some in weight_NK.split(rows)
    ]
    q_NK = torch.cat([q.flatten(1) for q, _ in parts])
    return Quantised(q_NK, torch.cat([scales for _, scales in parts]), bits)


def _found(w_NGK: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    if not native_available() or w_NGK.shape[-1] != GROUP:
        return nearest_plain(w_NGK, bits)
    q, scales = torch.empty(w_NGK.shape, dtype=torch.int8), torch.empty(w_NGK.shape[:2], dtype=torch.float16)
    native().quantise(
        bits, address(w_NGK), scales.numel(), TRIES, address(q), address(scales), torch.get_num_threads(), ""
    )
    return q, scales


def nearest_plain(w_NGK: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """What `quantise` finds, in PyTorch: codes int8, scales [N, G].

    Of fewer than 8 bits the number of the largest size lies on the longer side of the grid: scales have either sign.
    """
    if bits == 8:
        scales_NG = (w_NGK.abs().amax(-1) / 127).half()
        return _rounded(w_NGK, scales_NG, -127, 127).to(torch.int8), scales_NG
    end = 1 << (bits - 1)
    largest_NG = w_NGK.gather(-1, w_NGK.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best_scale = torch.zeros_like(largest_NG, dtype=torch.float16)
    best_error = torch.full_like(largest_NG, torch.inf)
    for step in range(TRIES):
        scale_NG = (largest_NG / -(_FIRST[bits] + _STEP * step)).half()
        q = _rounded(w_NGK, scale_NG, -end, end - 1)
        error_NG = (w_NGK - q * scale_NG.float()[..., None]).square().sum(-1)
        better = error_NG < best_error
        best_error = torch.where(better, error_NG, best_error)
        best_scale = torch.where(better, scale_NG, best_scale)
    return _rounded(w_NGK, best_scale, -end, end - 1).to(torch.int8), best_scale


def _rounded(w_NGK: Tensor, scales_NG: Tensor, low: int, high: int) -> Tensor:
    scales = scales_NG.float()[..., None]
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    return (w_NGK * inverse).round_().clamp_(low, high)
