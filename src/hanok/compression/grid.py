"""Grids of integers: what every quantiser here chooses scales for and rounds to.

    w[n, k] ~ scale[n, g] * (q[n, k] - zero[n, g]),   g = k // group

Symmetric: zero = 0, q in [-2^(b-1), 2^(b-1) - 1] (eight bits: [-127, 127], the scale from the largest), and the scale is, of
several, that with the least squared error; it may be negative, so that the largest number of a group can lie at the lower end.
With four or eight bits and groups of 32 this is the grid of `kernels/formats.py`, number for number.
Asymmetric: s = (max - min) / (2^b - 1) over a range that holds 0, zero = round(-min / s), q in [0, 2^b - 1].
Scales are numbers that float16 has.

N outputs, K inputs, G groups, k inputs of a group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.kernels.formats import GROUP, TRIES, quantise


@dataclass(frozen=True, slots=True)
class Grid:
    """scales_NG and zeros_NG float32 (zeros of `hqq.py` need not be whole)."""

    scales_NG: Tensor
    zeros_NG: Tensor
    bits: int
    symmetric: bool

    @property
    def low(self) -> int:
        if not self.symmetric:
            return 0
        return -127 if self.bits == 8 else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << self.bits) - 1 if not self.symmetric else (1 << (self.bits - 1)) - 1

    def round(self, w_NK: Tensor) -> Tensor:
        """The nearest codes, float32 whole numbers [N, K]."""
        groups = self.scales_NG.shape[1]
        scales, zeros = self.scales_NG[..., None], self.zeros_NG[..., None]
        inverse = torch.where(scales == 0, 0.0, 1 / scales)
        w_NGk = w_NK.float().unflatten(1, (groups, -1))
        return ((w_NGk * inverse).add_(zeros).round_().clamp_(self.low, self.high)).flatten(1)

    def values(self, q_NK: Tensor) -> Tensor:
        """float32 [N, K]."""
        q_NGk = q_NK.float().unflatten(1, (self.scales_NG.shape[1], -1))
        return ((q_NGk - self.zeros_NG[..., None]) * self.scales_NG[..., None]).flatten(1)

    def column(self, group: int) -> Grid:
        """The grid of one group."""
        one = slice(group, group + 1)
        return replace(self, scales_NG=self.scales_NG[:, one], zeros_NG=self.zeros_NG[:, one])

    def shrunk(self, factor: float) -> Grid:
        """The same codes over a narrower range."""
        return replace(self, scales_NG=(self.scales_NG * factor).half().float())


@dataclass(frozen=True, slots=True)
class Codes:
    """q_NK int16 on its grid."""

    q_NK: Tensor
    grid: Grid

    def values(self) -> Tensor:
        """float32 [N, K]."""
        return self.grid.values(self.q_NK)

    def with_whole_zeros(self, weight_NK: Tensor) -> Codes:
        """The nearest codes of `weight_NK` once zero points are whole numbers, as files need them."""
        zeros_NG = self.grid.zeros_NG.round().clamp(0, self.grid.high)
        return encode(weight_NK, replace(self.grid, zeros_NG=zeros_NG))


def find_grid(weight_NK: Tensor, bits: int, group: int, *, symmetric: bool = True) -> Grid:
    """Scales and zeros for the numbers as they are.

    Raises:
        ConfigError: bits outside 2..8, or inputs that are no multiple of `group`.
    """
    if not 2 <= bits <= 8:
        raise ConfigError(f"{bits} bits", remedy="choose 2 to 8")
    if group < 1 or weight_NK.shape[1] % group:
        raise ConfigError(
            f"{weight_NK.shape[1]} inputs do not fill groups of {group}", remedy="choose a divisor"
        )
    w_NGk = weight_NK.detach().float().unflatten(1, (-1, group))
    if not symmetric:
        return _asymmetric(w_NGk, bits)
    scales_NG = _least_squares(w_NGk, bits, group)
    return Grid(scales_NG, torch.zeros_like(scales_NG), bits, symmetric=True)


def encode(weight_NK: Tensor, grid: Grid) -> Codes:
    """The nearest numbers of a grid."""
    return Codes(grid.round(weight_NK.detach()).to(torch.int16), grid)


def _least_squares(w_NGk: Tensor, bits: int, group: int) -> Tensor:
    if bits in (4, 8) and group == GROUP:
        return quantise(w_NGk.flatten(1), bits).scales_NG.float()
    if bits == 8:
        return (w_NGk.abs().amax(-1) / 127).half().float()
    half = 1 << (bits - 1)
    largest_NG = w_NGk.gather(-1, w_NGk.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best_scale, best_error = torch.zeros_like(largest_NG), torch.full_like(largest_NG, torch.inf)
    for step in range(TRIES):
        scale_NG = (largest_NG / (-0.8 * half - 0.025 * half * step)).half().float()
        grid = Grid(scale_NG, torch.zeros_like(scale_NG), bits, symmetric=True)
        lost = w_NGk - grid.values(grid.round(w_NGk.flatten(1))).view_as(w_NGk)
        error_NG = lost.square().sum(-1)
        best_scale = torch.where(error_NG < best_error, scale_NG, best_scale)
        best_error = torch.minimum(error_NG, best_error)
    return best_scale


def _asymmetric(w_NGk: Tensor, bits: int) -> Grid:
    low_NG, high_NG = w_NGk.amin(-1).clamp(max=0), w_NGk.amax(-1).clamp(min=0)
    scales_NG = ((high_NG - low_NG) / ((1 << bits) - 1)).half().float()
    zeros_NG = torch.where(scales_NG == 0, 0.0, -low_NG / scales_NG).round().clamp(0, (1 << bits) - 1)
    return Grid(scales_NG, zeros_NG, bits, symmetric=False)
