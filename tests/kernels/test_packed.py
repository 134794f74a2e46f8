"""Packed products against their PyTorch reference, on every instruction set that the processor has."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hanok.kernels import formats
from hanok.kernels.formats import GROUP, Quantised, Stored, pack_words, quantise
from hanok.kernels.native import address, native, native_available
from hanok.kernels.packed import (
    KINDS,
    Kind,
    Room,
    lazy,
    pack,
    pack_quantised,
    pack_rows,
    product,
    reference_product,
    rows_of,
)

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
BITS: dict[Kind, int] = {"int8": 8, "int5": 5, "int4": 4}
PATHS = native().step_paths() if native_available() else []


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("outputs", "inputs", "count"), [(16, 32, 1), (48, 96, 3), (80, 256, 7), (33, 100, 16), (272, 1024, 21)]
)
def test_equal_to_the_reference(path: str, kind: Kind, outputs: int, inputs: int, count: int) -> None:
    weight, x = random(outputs, inputs), random(count, inputs, seed=1)
    x[0] *= 30
    bias = random(outputs, seed=2)
    matrix = pack(weight, kind, bias_N=bias)
    padded = torch.nn.functional.pad(weight, (0, -inputs % GROUP))
    wide = torch.nn.functional.pad(x, (0, -inputs % GROUP)).contiguous()
    plain = padded if kind == "bf16" else quantise(padded, BITS[kind])
    expected = reference_product(plain, wide) + bias
    found = product(matrix, wide, threads=2, path=path)[:, :outputs]
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 64), (37, 100), (5, 31)])
def test_rows_are_quantised_where_they_lie(dtype: torch.dtype, outputs: int, inputs: int, kind: Kind) -> None:
    """The image is that of the quantised matrix, bit for bit; also of a part of a matrix, and of tiny and huge numbers."""
    whole = random(outputs, inputs + 9)
    whole[0] *= 1e-6
    whole[1] = 0
    whole[2, 3] = 3e4
    weight = whole.to(dtype)[:, :inputs]
    padding = (0, -inputs % GROUP, 0, -outputs % 16)
    expected = pack_quantised(quantise(torch.nn.functional.pad(weight.float(), padding), BITS[kind]))
    found = pack(weight, kind)
    assert torch.equal(found.weights, expected.weights)
    assert found.scales is not None
    assert expected.scales is not None
    assert torch.equal(found.scales, expected.scales)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_codes_go_in_without_loss(bits: int, group: int, signed: bool) -> None:
    """From words or, of eight bits, from bytes; several matrices below one another, in any order, with rows of zeros between."""
    kind: Kind = "int8" if bits == 8 else "int4"
    parts = []
    for number, outputs in enumerate((13, 30)):
        quantised = quantise(random(outputs, 128, seed=number), bits)
        codes = quantised.q_NK if signed and bits == 8 else pack_words(quantised.q_NK, bits)
        scales = quantised.scales_NG.view(outputs, -1, group // GROUP)[:, :, 0]
        parts.append(Stored(codes, scales.float() if number else scales, bits, 128))
    rows = rows_of(parts, kind)
    assert rows is not None
    order = torch.cat(
        [torch.randperm(43, generator=torch.Generator().manual_seed(3)), torch.tensor([43, 43])]
    )

    def arranged(vector: torch.Tensor) -> torch.Tensor:
        return torch.cat([vector, vector.new_zeros(1, *vector.shape[1:])])[order]

    found = pack_rows(rows.arranged(arranged))
    assert found.group == group
    whole = [part.quantised(group) for part in parts]
    q = arranged(torch.cat([part.q_NK for part in whole]))
    scales = arranged(torch.cat([part.scales_NG for part in whole]))
    fill = (0, 0, 0, -len(q) % 16)
    pad = torch.nn.functional.pad
    expected = pack_quantised(Quantised(pad(q, fill), pad(scales, fill), bits))
    assert torch.equal(found.weights, expected.weights)
    assert found.scales is not None
    assert expected.scales is not None
    assert torch.equal(found.scales, expected.scales)


def test_what_is_not_packed_from_where_it_lies() -> None:
    codes = Stored(quantise(random(16, 32), 8).q_NK, torch.ones(16, 1), 8, 32)
    assert rows_of([codes, random(16, 32)], "int8") is None
    assert rows_of([codes], "int5") is None
    assert rows_of([random(16, 32)], "bf16") is None
    unlike = rows_of([random(16, 32), random(16, 32).bfloat16()], "int4")
    assert unlike is not None
    assert unlike.source == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_company_or_on_threads(kind: Kind) -> None:
    matrix, x = pack(random(160, 512), kind), random(21, 512, seed=1)
    together = product(matrix, x, threads=2)
    for row in range(21):
        assert torch.equal(product(matrix, x[row : row + 1].contiguous(), threads=1)[0], together[row])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_all_heights(path: str, kind: Kind) -> None:
    """1 to 8 rows are one tile, more are several of four to six (of bfloat16 eight); weights from memory or from a cache."""
    matrix, x = pack(random(176, 512), kind), random(20, 512, seed=1)
    together = product(matrix, x, threads=2, path=path)
    for count in range(1, 20):
        for cold in (False, True):
            found = product(matrix, x[:count].contiguous(), threads=2, path=path, cold=cold)
            assert torch.equal(found, together[:count]), (count, cold)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoilt", ["nan", "-nan", "inf", "-inf"])
def test_what_is_no_number_stays_none(path: str, kind: Kind, spoilt: str) -> None:
    """Wherever it stands in a row, with any sizes beside it; the other rows do not notice."""
    matrix, x = pack(random(48, 96), kind), random(9, 96, seed=1)
    expected = product(matrix, x, threads=2, path=path)
    for place in (0, 31, 32, 70, 95):
        for row in (0, 4, 8):
            wrong = x.clone()
            wrong[row, place] = float(spoilt.removeprefix("-")) * (-1 if spoilt.startswith("-") else 1)
            wrong[row, place // 32 * 32 + 5] = 3e38 if place != 5 else x[row, 5]
            found = product(matrix, wrong, threads=2, path=path)
            assert not found[row].isfinite().any()
            others = [other for other in range(9) if other != row]
            assert torch.equal(found[others], expected[others])


def test_a_row_of_zeros() -> None:
    for kind in KINDS:
        assert product(pack(random(32, 64), kind), torch.zeros(2, 64)).abs().max() == 0


def test_grids() -> None:
    weight = random(64, 128)
    eight, four = quantise(weight, 8), quantise(weight, 4)
    assert eight.q_NK.abs().max() == 127
    assert (four.q_NK.min(), four.q_NK.max()) == (-8, 7)
    largest = weight.view(64, -1, GROUP).abs().amax(-1).repeat_interleave(GROUP, 1)
    assert ((eight.dequantised() - weight).abs() <= largest / 127 * 0.51).all()
    plain = (largest / 7).half().float()
    nearest = (weight / plain).round() * plain
    assert (four.dequantised() - weight).square().mean() < 0.85 * (nearest - weight).square().mean()
    five = quantise(weight, 5)
    assert (five.q_NK.min(), five.q_NK.max()) == (-16, 15)
    assert (five.dequantised() - weight).square().mean() < 0.3 * (four.dequantised() - weight).square().mean()
    assert quantise(torch.zeros(16, 32), 4).dequantised().abs().max() == 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bits", [8, 5, 4])
def test_rounded_natively_as_in_pytorch(bits: int, path: str) -> None:
    weight = random(101, 32 * 3)  # no multiple of what is rounded together
    weight[0] *= 1e-6  # scales below what float16 holds without loss
    weight[1] = 0
    weight[2, 5] = 3e4
    groups = weight.unflatten(1, (-1, GROUP)).contiguous()
    ours, our_scales = torch.empty(groups.shape, dtype=torch.int8), torch.empty(101, 3, dtype=torch.float16)
    native().quantise(
        bits, address(groups), our_scales.numel(), formats.TRIES, address(ours), address(our_scales), 2, path
    )
    plain, plain_scales = formats.nearest_plain(groups, bits)
    if bits == 8:
        assert torch.equal(ours, plain)
        assert torch.equal(our_scales, plain_scales)
        return
    errors = [
        (groups - q * s.float()[..., None]).square().sum(-1)
        for q, s in ((ours, our_scales), (plain, plain_scales))
    ]
    torch.testing.assert_close(*errors, rtol=1e-4, atol=1e-12)
    assert (our_scales == plain_scales).float().mean() > 0.99


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")
def test_large_tensors_may_lie_on_large_pages() -> None:
    """The kernel makes them of private memory that asks for them; 5 MiB hold two, the rest takes small ones."""
    held = lazy(5 << 20, torch.uint8)
    assert int(held.sum()) == 0
    flags = flags_of(held.data_ptr())
    assert "hg" in flags
    assert "sh" not in flags
    assert "hg" not in flags_of(held.data_ptr() + (4 << 20))
    assert "hg" not in flags_of(lazy(1000, torch.float32).data_ptr())


def test_matrices_in_one_room_are_themselves() -> None:
    """Side by side, each on a cache line, with the same products; one as large as a part of the room has its own memory."""
    room, x = Room(), random(3, 96)
    matrices = [
        pack(random(rows, 96, seed=rows), kind, bias_N=random(rows)) for kind in KINDS for rows in (16, 80)
    ]
    moved = [room.take_in(matrix) for matrix in matrices]
    for before, after in zip(matrices, moved, strict=True):
        assert torch.equal(product(before, x), product(after, x))
        assert after.weights.data_ptr() % 64 == 0
    places = sorted((m.weights.data_ptr(), m.weights.data_ptr() + m.weights.nbytes) for m in moved)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert places[-1][1] - places[0][0] < 3 * sum(matrix.nbytes for matrix in moved)
    large = pack(torch.zeros(1 << 14, 1 << 11), "int4")
    assert room.take_in(large) is large


def flags_of(address: int) -> list[str]:
    """What the kernel says of the mapping that holds it."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            first, last = (int(number, 16) for number in words[0].split("-"))
            inside = first <= address < last
        elif inside and words[0] == "VmFlags:":
            return words[1:]
    raise AssertionError("no mapping holds it")
