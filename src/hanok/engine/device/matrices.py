"""Products with weights that lie on a device: plain ones, and codes of 8 and 4 bits (`hanok.kernels.formats`).

Codes are multiplied out to the type of the input before each product. Codes of 4 bits go through PyTorch's own kernel instead
where it has one for the device and gives the same numbers there (`int4_agrees`).

N outputs, K inputs, G groups, E experts, P experts of a token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.formats import GROUP, Quantised
from hanok.reporting import log

_CLOSE = 2e-2  # of the largest number: the kernel's scales are bfloat16


class Plain:
    """Weights as they are; linear maps read their rows of it as their own weights."""

    def __init__(self, weight_NK: Tensor) -> None:
        self.weight_NK = weight_NK

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_NK)

    def fill(self, weight_NK: Tensor) -> None:
        self.weight_NK.copy_(weight_NK)

    @property
    def nbytes(self) -> int:
        return self.weight_NK.nbytes


class Coded:
    """Codes, scales, and zero points where there are some; inputs beyond K are zeros."""

    def __init__(self, source: Quantised, device: torch.device, dtype: torch.dtype) -> None:
        self.bits, self._dtype = source.bits, dtype
        self.codes = _narrow(source).to(device)
        self.scales_NG = source.scales_NG.to(device)
        self.zeros_NG = None if source.zeros_NG is None else source.zeros_NG.to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(_filled_up(x, self.scales_NG.shape[1] * GROUP), self.numbers())

    def numbers(self) -> Tensor:
        """[N, K] in the type that the device computes in."""
        return multiplied_out(self.codes, self.scales_NG, self._dtype, self.zeros_NG)

    def fill(self, source: Quantised) -> None:
        """In place. It has no zero points unless there were some before."""
        self.codes.copy_(_narrow(source))
        self.scales_NG.copy_(source.scales_NG)
        _fill_zeros(self.zeros_NG, source)

    @property
    def nbytes(self) -> int:
        zeros = 0 if self.zeros_NG is None else self.zeros_NG.nbytes
        return self.codes.nbytes + self.scales_NG.nbytes + zeros


class Coded4:
    """Codes of 4 bits in the order of PyTorch's kernel, which takes bfloat16."""

    def __init__(self, source: Quantised, device: torch.device) -> None:
        self._device = device
        self.codes, self.scales_GN2 = _for_kernel(source, device)

    def __call__(self, x: Tensor) -> Tensor:
        rows = _filled_up(x, len(self.scales_GN2) * GROUP).flatten(0, -2)
        y = _int4_kernel(self._device)(rows.contiguous(), self.codes, GROUP, self.scales_GN2)
        return y.unflatten(0, x.shape[:-1])

    def fill(self, source: Quantised) -> None:
        codes, scales = _for_kernel(source, self._device)
        self.codes.copy_(codes)
        self.scales_GN2.copy_(scales)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales_GN2.nbytes


class PlainStack:
    """The matrices of all experts, [E, N, K]."""

    def __init__(self, weight_ENK: Tensor) -> None:
        self._weight_ENK = weight_ENK

    def whole(self) -> Tensor:
        return self._weight_ENK

    def of(self, chosen_NP: Tensor) -> Tensor:
        return self._weight_ENK[chosen_NP]

    def fill(self, weight_ENK: Tensor) -> None:
        self._weight_ENK.copy_(weight_ENK)

    @property
    def nbytes(self) -> int:
        return self._weight_ENK.nbytes


class CodedStack:
    """Codes of all experts, one below the other. Inputs filled up by `quantise`'s caller are cut off again."""

    def __init__(
        self, source: Quantised, experts: int, inputs: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._inputs, self._dtype = inputs, dtype

        def apart(part: Tensor) -> Tensor:
            return part.unflatten(0, (experts, -1)).to(device, copy=True)

        self._codes, self._scales = apart(_narrow(source)), apart(source.scales_NG)
        self._zeros = None if source.zeros_NG is None else apart(source.zeros_NG)

    def whole(self) -> Tensor:
        numbers = multiplied_out(self._codes, self._scales, self._dtype, self._zeros)
        return numbers[..., : self._inputs]

    def of(self, chosen_NP: Tensor) -> Tensor:
        zeros = None if self._zeros is None else self._zeros[chosen_NP]
        numbers = multiplied_out(self._codes[chosen_NP], self._scales[chosen_NP], self._dtype, zeros)
        return numbers[..., : self._inputs]

    def fill(self, source: Quantised) -> None:
        """As `Coded.fill`."""
        self._codes.copy_(_narrow(source).view_as(self._codes))
        self._scales.copy_(source.scales_NG.view_as(self._scales))
        _fill_zeros(self._zeros, source)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self._codes, self._scales, self._zeros) if part is not None)


def coded(source: Quantised, device: torch.device, dtype: torch.dtype) -> Coded | Coded4:
    """The form that is quickest there."""
    if source.bits == 4 and dtype == torch.bfloat16 and _fits_kernel(source, device) and int4_agrees(device):
        return Coded4(source, device)
    return Coded(source, device, dtype)


def multiplied_out(codes: Tensor, scales: Tensor, dtype: torch.dtype, zeros: Tensor | None = None) -> Tensor:
    """[..., K]; codes int8, or two of them in a byte."""
    if codes.dtype == torch.uint8:
        codes = (torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)).to(torch.int8) - 8
    grouped = codes.unflatten(-1, (-1, GROUP)).float()
    if zeros is not None:
        grouped = grouped - zeros.float()[..., None]
    return (grouped * scales.float()[..., None]).flatten(-2).to(dtype)


@functools.cache
def int4_agrees(device: torch.device) -> bool:
    """Whether PyTorch's kernel for weights of 4 bits may stand for multiplying out there; one log line says so."""
    generator = torch.Generator().manual_seed(0)
    q_NK = torch.randint(-8, 8, (64, 256), generator=generator, dtype=torch.int8)
    source = Quantised(q_NK, torch.rand(64, 256 // GROUP, generator=generator).half(), 4)
    x = torch.randn(5, 256, generator=generator).to(device, torch.bfloat16)
    try:
        found, expected = Coded4(source, device)(x), Coded(source, device, torch.bfloat16)(x)
    except Exception as why:  # what a build of PyTorch lacks is not known beforehand
        log.warning(
            "weights of 4 bits are multiplied out before each product: PyTorch's kernel fails (%s)", why
        )
        return False
    error = float((found - expected).float().abs().max() / expected.float().abs().max())
    if not error < _CLOSE:
        log.warning(
            "weights of 4 bits are multiplied out before each product: PyTorch's kernel is off by %.2g", error
        )
        return False
    log.info("weights of 4 bits run on PyTorch's kernel on %s, which agrees within %.1g", device.type, error)
    return True


def _narrow(source: Quantised) -> Tensor:
    if source.bits != 4:
        return source.q_NK
    low, high = (source.q_NK + 8).view(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    return low | (high << 4)


def _fill_zeros(zeros: Tensor | None, source: Quantised) -> None:
    assert zeros is not None or source.zeros_NG is None
    if zeros is not None:
        zeros.copy_(torch.zeros_like(zeros) if source.zeros_NG is None else source.zeros_NG.view_as(zeros))


def _filled_up(x: Tensor, inputs: int) -> Tensor:
    return x if x.shape[-1] == inputs else F.pad(x, (0, inputs - x.shape[-1]))


def _fits_kernel(source: Quantised, device: torch.device) -> bool:
    return source.q_NK.shape[0] % (8 if device.type == "cuda" else 16) == 0


def _int4_kernel(device: torch.device) -> Callable[..., Tensor]:
    kernels = torch.ops.aten
    return kernels._weight_int4pack_mm if device.type == "cuda" else kernels._weight_int4pack_mm_for_cpu


def _for_kernel(source: Quantised, device: torch.device) -> tuple[Tensor, Tensor]:
    """Codes in the kernel's order, and [G, N, (scale, offset)]: a number is (code - 8) * scale + offset, codes from 0 to 15."""
    scales_GN = source.scales_NG.T.to(device, torch.bfloat16)
    offsets_GN = torch.zeros_like(scales_GN)
    if source.zeros_NG is not None:
        zeros_GN = source.zeros_NG.T.to(device).float()
        offsets_GN = (-zeros_GN * scales_GN.float()).to(torch.bfloat16)
    scales_GN2 = torch.stack([scales_GN, offsets_GN], dim=-1).contiguous()
    codes = (source.q_NK + 8).to(device)
    if device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 2), scales_GN2
    high, low = codes.view(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    inputs = source.q_NK.shape[1]
    tiles = next(tiles for tiles in (8, 4, 2) if inputs % (16 * tiles) == 0)
    return torch.ops.aten._convert_weight_to_int4pack((high << 4) | low, tiles), scales_GN2
