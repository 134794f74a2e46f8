"""Matrices as the processor reads them: 16 outputs side by side, a group's scales and zero points with them
(`native_src/step.h`).

The image is made from a model's weights when it is loaded; on disk it is a cache at most (`engine/images.py`).
N outputs (padded to a multiple of 16), K inputs (padded to one of 32), G groups of 32 inputs times a power of two, M rows of
input.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.formats import GROUP, TRIES, Quantised, Stored, quantise, span_of
from hanok.kernels.native import address, native

Kind = Literal["bf16", "int8", "int4", "int5"]
KINDS: tuple[Kind, ...] = ("bf16", "int8", "int4", "int5")  # as the native side numbers them
_BITS: dict[Kind, int] = {"int8": 8, "int4": 4, "int5": 5}
_LANES = 16
_SOURCES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_LINE, _PAGE, _CHUNK = 64, 1 << 21, 1 << 24


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A linear map; `rows` and `cols` are padded. Keeps what the native side points to. No zero points: all are 0."""

    kind: Kind
    rows: int
    cols: int
    weights: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    bias: Tensor | None
    native: Any

    def take_over(self, other: PackedMatrix) -> None:
        """The numbers of another of the same kind and shape, in place; its groups are no smaller, and it has no zero points
        unless this one has room for them."""
        assert other.zeros is None or self.zeros is not None
        scales, zeros = (
            None if part is None else part.repeat_interleave(other.group // self.group, dim=-2)
            for part in (other.scales, other.zeros)
        )
        for mine, theirs in (
            (self.weights, other.weights),
            (self.scales, scales),
            (self.bias, other.bias),
        ):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        if self.zeros is not None:
            self.zeros[:] = 0 if zeros is None else zeros

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return GROUP if self.scales is None else self.cols // self.scales.shape[-2]

    @property
    def nbytes(self) -> int:
        halves = [part for part in (self.scales, self.zeros) if part is not None]
        return self.weights.numel() + sum(part.nbytes for part in halves)


class Room:
    """Memory for the matrices of a model, one behind the other on large pages: a step reads all of it, and most of them
    are too small to fill a large page by themselves."""

    def __init__(self) -> None:
        self._rests: list[Tensor] = []  # what parts have left

    def copied(self, tensor: Tensor) -> Tensor:
        """The tensor in here; it begins on a cache line."""
        size = tensor.nbytes
        if size >= _CHUNK:
            found = lazy(size, torch.uint8)
        else:
            place = next((n for n, rest in enumerate(self._rests) if size <= len(rest)), len(self._rests))
            if place == len(self._rests):
                self._rests.append(lazy(_CHUNK, torch.uint8))
            found, self._rests[place] = self._rests[place].tensor_split([size])
            self._rests[place] = self._rests[place][-size % _LINE :]
        found = found.view(tensor.dtype).view(tensor.shape)
        return found.copy_(tensor)

    def take_in(self, matrix: PackedMatrix) -> PackedMatrix:
        """The matrix in here; one that fills a part of its own stays where it is."""
        if matrix.weights.nbytes >= _CHUNK:
            return matrix
        parts = (matrix.weights, matrix.scales, matrix.zeros, matrix.bias)
        return restore(matrix.kind, matrix.rows, matrix.cols, *parts, room=self)


def restore(
    kind: Kind, rows: int, cols: int, weights: Tensor, scales: Tensor | None, zeros: Tensor | None, bias: Tensor | None, *,
    room: Room,
) -> PackedMatrix:  # fmt: skip
    """A matrix from its own parts, copied."""
    image, *others = (
        None if part is None else room.copied(part) for part in (weights.flatten(), scales, zeros, bias)
    )
    assert image is not None
    return _held(kind, rows, cols, image, *others)


def pack(weight_NK: Tensor, kind: Kind, *, bias_N: Tensor | None = None, group: int = GROUP) -> PackedMatrix:
    """Quantise, if the kind is of integers, and lay out."""
    if kind != "bf16" and group != GROUP:
        padding = (0, -weight_NK.shape[1] % group, 0, -weight_NK.shape[0] % _LANES)
        return pack_quantised(quantise(F.pad(weight_NK, padding), _BITS[kind], group), bias_N=bias_N)
    if (rows := rows_of([weight_NK], kind)) is not None:
        return pack_rows(rows, bias_N=bias_N)
    padding = (0, -weight_NK.shape[1] % GROUP, 0, -weight_NK.shape[0] % _LANES)
    weight_NK = F.pad(weight_NK, padding) if any(padding) else weight_NK
    numbers = weight_NK.to(torch.bfloat16).contiguous().view(torch.uint8)
    return _image(_interleaved(numbers), None, None, kind, weight_NK, bias_N)


def pack_stacked(packed: Callable[[int], PackedMatrix], count: int) -> PackedMatrix:
    """`count` maps of one kind and shape, each padded by itself, one behind the other; only one at a time is in memory twice."""
    first = packed(0)
    image = _aligned(count * first.weights.numel())
    scales, zeros, biases = (
        None if part is None else part.new_empty(count, *part.shape)
        for part in (first.scales, first.zeros, first.bias)
    )
    for number in range(count):
        one = packed(number) if number else first
        for whole, part in (
            (image.view(count, -1), one.weights), (scales, one.scales), (zeros, one.zeros), (biases, one.bias),
        ):  # fmt: skip
            assert (whole is None) == (part is None)
            if whole is not None and part is not None:
                whole[number] = part
    return _held(first.kind, count * first.rows, first.cols, image, scales, zeros, biases)


@dataclass(frozen=True, slots=True)
class RowsInPlace:
    """Rows of matrices of one kind where they lie, in the order in which they are to be packed; address 0 is a row of zeros.

    Args:
        source: as the native side numbers them. given: inputs that a row has.
        rows_N, scales_N, zeros_N, groups_N: int64, the addresses of rows, of the scales of codes and of their zero points (0:
            all of the row are 0; None: of every row), and how many scales those are.
        flip: of codes of eight bits: what turns four of them into those of the image. kept: what the addresses point to.
    """

    kind: Kind
    source: int
    given: int
    rows_N: Tensor
    scales_N: Tensor
    zeros_N: Tensor | None
    groups_N: Tensor
    flip: int
    kept: tuple[Tensor, ...]

    def arranged(self, change: Callable[[Tensor], Tensor]) -> RowsInPlace:
        """In another order, or with rows of zeros between: `change` does to a vector what is to be done to the rows."""
        zeros_N = None if self.zeros_N is None else change(self.zeros_N)
        return replace(
            self, rows_N=change(self.rows_N), scales_N=change(self.scales_N), zeros_N=zeros_N, groups_N=change(self.groups_N)
        )  # fmt: skip


def rows_of(parts: Sequence[Tensor | Stored], kind: Kind) -> RowsInPlace | None:
    """The rows of several matrices one below the other, if the native side packs them from where they lie: numbers that become
    integers, or codes, all of one type.

    Args:
        parts: with as many columns each; codes of the kind's width.
    """
    numbers = [part for part in parts if isinstance(part, Tensor)]
    codes = [part for part in parts if isinstance(part, Stored)]
    if not codes:
        return None if kind == "bf16" else _numbers_in_place(numbers, kind)
    return None if numbers or kind in ("bf16", "int5") else _codes_in_place(codes, kind)


def _numbers_in_place(parts: Sequence[Tensor], kind: Kind) -> RowsInPlace:
    types = {part.dtype for part in parts}
    alike = len(types) == 1 and types <= set(_SOURCES)
    kept = tuple((part if alike else part.float()).detach().contiguous() for part in parts)
    none_N = torch.zeros(sum(map(len, kept)), dtype=torch.int64)
    return RowsInPlace(
        kind, _SOURCES[kept[0].dtype], kept[0].shape[1], _addresses(kept), none_N, None, none_N, 0, kept
    )


def _codes_in_place(parts: Sequence[Stored], kind: Kind) -> RowsInPlace | None:
    types = {part.codes.dtype for part in parts}
    if len(types) > 1 or (kind == "int4" and torch.int8 in types):
        return None
    codes = [part.codes.contiguous() for part in parts]
    scales = [part.scales_NG.half().contiguous() for part in parts]
    zeros = [None if part.zeros_NG is None else part.zeros_NG.half().contiguous() for part in parts]
    zeros_N = None
    if any(part is not None for part in zeros):
        zeros_N = torch.cat([
            torch.zeros(len(part), dtype=torch.int64) if zero is None else _addresses([zero])
            for part, zero in zip(codes, zeros, strict=True)
        ])  # fmt: skip
    groups_N = torch.cat([torch.full((len(s),), s.shape[1]) for s in scales])
    flip = 0x80808080 if torch.int8 in types else 0
    kept = (*codes, *scales, *(part for part in zeros if part is not None))
    return RowsInPlace(
        kind, 0, parts[0].cols, _addresses(codes), _addresses(scales), zeros_N, groups_N, flip, kept
    )


def pack_rows(rows: RowsInPlace, *, bias_N: Tensor | None = None) -> PackedMatrix:
    """Straight into the image: numbers are quantised as `quantise` does it, codes go in without loss, with as few scales as
    all of their rows have."""
    rows = rows.arranged(lambda vector: F.pad(vector, (0, -len(vector) % _LANES)))
    count, cols = len(rows.rows_N), -(-rows.given // GROUP) * GROUP
    image, span = _aligned(count * cols * _BITS[rows.kind] // 8), _span(rows, cols // GROUP)
    groups = cols // GROUP >> span
    scales, zeros = (
        _aligned(2 * count * groups).view(torch.float16).view(-1, groups, _LANES) if wanted else None
        for wanted in (True, rows.zeros_N is not None)
    )  # fmt: skip
    native().pack_rows(
        [KINDS.index(rows.kind), rows.source, cols, rows.given, span], rows.rows_N.tolist(), rows.scales_N.tolist(),
        [] if rows.zeros_N is None else rows.zeros_N.tolist(), rows.groups_N.tolist(), rows.flip, TRIES, address(image),
        address(scales), address(zeros), torch.get_num_threads(), "",
    )  # fmt: skip
    return _matrix(rows.kind, count, cols, image, scales, zeros, bias_N)


def _span(rows: RowsInPlace, groups: int) -> int:
    """The logarithm of how many groups of 32, of the `groups` that a row has, share a scale: 0 where rows of codes differ."""
    counts = set(rows.groups_N[rows.rows_N != 0].tolist())
    return 0 if rows.source or len(counts) != 1 else span_of(groups, counts.pop())


def _addresses(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([
        part.data_ptr() + part.stride(0) * part.element_size() * torch.arange(len(part)) for part in parts
    ])  # fmt: skip


def pack_quantised(weight: Quantised, *, bias_N: Tensor | None = None) -> PackedMatrix:
    """Without loss: N must be a multiple of 16, and a group 32 inputs times a power of two."""
    q_NK, groups = weight.q_NK, weight.scales_NG.shape[1]
    scales, zeros = (
        None if part is None else part.view(-1, _LANES, groups).permute(0, 2, 1).contiguous()
        for part in (weight.scales_NG, weight.zeros_NG)
    )
    if weight.bits == 8:
        return _image(_interleaved((q_NK ^ -128).view(torch.uint8)), scales, zeros, "int8", q_NK, bias_N)
    codes = (q_NK + (1 << (weight.bits - 1))).view(torch.uint8).unflatten(1, (-1, 4, 2, 4))
    low, high = codes[..., 0, :], codes[..., 1, :]  # [N, G, 4, 4]
    both = (low & 15) | ((high & 15) << 4)
    if weight.bits == 4:
        return _image(_interleaved(both.flatten(1)), scales, zeros, "int4", q_NK, bias_N)
    places = 2 * torch.arange(4, dtype=torch.uint8)[:, None]
    fifth = ((low >> 4) << places) | ((high >> 4) << (places + 1))
    both = torch.cat([both, fifth.sum(2, keepdim=True, dtype=torch.uint8)], dim=2)
    return _image(_interleaved(both.flatten(1)), scales, zeros, "int5", q_NK, bias_N)


def product(
    matrix: PackedMatrix, x_MK: Tensor, *, threads: int = 1, path: str = "", cold: bool = True
) -> Tensor:
    """float32 [M, rows]; inputs are rounded to bfloat16, or to int8 with one scale for 32 of them.

    Args:
        x_MK: float32 [M, cols]. path: an instruction set of `native().step_paths()`; "" = the best. cold: the weights come from
            memory, not from the caches; a matter of speed alone.
    """
    y = torch.empty(x_MK.shape[0], matrix.rows)
    native().packed_product(matrix.native, address(x_MK), x_MK.shape[0], address(y), threads, path, cold)
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
    """Zeros that take memory only once they are written, on large pages where they fill some; they begin on a page."""
    bytes_ = count * dtype.itemsize
    size = -(-bytes_ // _PAGE) * _PAGE
    # private: of memory that could be shared, the kernel makes no large pages unless it is told to for the whole system
    room = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw = torch.frombuffer(room, dtype=torch.uint8)
    start = -raw.data_ptr() % _PAGE
    native().huge_pages(raw.data_ptr() + start, bytes_ // _PAGE * _PAGE)
    return raw[start : start + bytes_].view(dtype)


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
    weights: Tensor, scales: Tensor | None, zeros: Tensor | None, kind: Kind, shape_of: Tensor, bias_N: Tensor | None
) -> PackedMatrix:  # fmt: skip
    image = _aligned(weights.numel())
    image.view(weights.shape).copy_(weights)
    return _matrix(kind, shape_of.shape[0], shape_of.shape[1], image, scales, zeros, bias_N)


def _matrix(
    kind: Kind, rows: int, cols: int, image: Tensor, scales: Tensor | None, zeros: Tensor | None, bias_N: Tensor | None
) -> PackedMatrix:  # fmt: skip
    bias = None if bias_N is None else F.pad(bias_N.float(), (0, rows - len(bias_N))).contiguous()
    return _held(kind, rows, cols, image, scales, zeros, bias)


def _held(
    kind: Kind, rows: int, cols: int, image: Tensor, scales: Tensor | None, zeros: Tensor | None, bias: Tensor | None
) -> PackedMatrix:  # fmt: skip
    places = (address(part) for part in (image, scales, zeros, bias))
    span = 0 if scales is None else (cols // GROUP // scales.shape[-2]).bit_length() - 1
    assert scales is None or cols // GROUP == scales.shape[-2] << span, "groups of 32 times a power of two"
    matrix = native().matrix(KINDS.index(kind), rows, cols, span, *places)
    return PackedMatrix(kind, rows, cols, image, scales, zeros, bias, matrix)
