"""Codes with zero points: products against the PyTorch reference on every instruction set, images, and what takes them over."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.formats import GROUP, Quantised, Stored, pack_words, quantise, stacked_codes
from hanok.kernels.native import native, native_available
from hanok.kernels.packed import (
    Kind,
    PackedMatrix,
    Room,
    pack,
    pack_quantised,
    pack_rows,
    pack_stacked,
    product,
    reference_product,
    rows_of,
)

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
BITS: dict[Kind, int] = {"int8": 8, "int5": 5, "int4": 4}
PATHS = native().step_paths() if native_available() else []


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def asymmetric(outputs: int, inputs: int, bits: int, *, whole: bool = False, seed: int = 0) -> Quantised:
    """Codes and zero points over all of their range, the lowest codes among them."""
    generator, end = torch.Generator().manual_seed(seed), 1 << (bits - 1)
    q_NK = torch.randint(-end, end, (outputs, inputs), generator=generator).to(torch.int8)
    shape = (outputs, inputs // GROUP)
    zeros_NG = (torch.rand(shape, generator=generator) * 2 - 1) * end
    scales_NG = (0.01 + torch.rand(shape, generator=generator)) * (
        torch.randint(0, 2, shape, generator=generator) * 2 - 1
    )
    return Quantised(q_NK, scales_NG.half(), bits, (zeros_NG.round() if whole else zeros_NG).half())


def blocks(source: Quantised) -> Quantised:
    """Filled up to whole blocks of 16 outputs."""
    return source.changed(lambda part: F.pad(part, (0, 0, 0, -len(part) % 16)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize(
    ("outputs", "inputs", "count"),
    [(16, 32, 1), (48, 96, 3), (80, 256, 7), (33, 128, 16), (272, 1024, 21), (96, 160, 64)],
)
def test_equal_to_the_reference(path: str, kind: Kind, outputs: int, inputs: int, count: int) -> None:
    source, x = asymmetric(outputs, inputs, BITS[kind], whole=outputs == 48), random(count, inputs, seed=1)
    x[0] *= 30
    x[-1] += 2  # a group whose sum is large
    matrix = pack_quantised(blocks(source), bias_N=random(outputs, seed=2))
    expected = reference_product(source, x) + random(outputs, seed=2)
    found = product(matrix, x, threads=2, path=path)[:, :outputs]
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-5)
    without = product(pack_quantised(blocks(replace(source, zeros_NG=None))), x, threads=2, path=path)[
        :, :outputs
    ]
    assert (without - expected).std() > 0.1 * expected.std(), "zero points matter"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BITS)
def test_zero_points_of_0_change_no_bit(path: str, kind: Kind) -> None:
    plain, x = replace(asymmetric(176, 512, BITS[kind]), zeros_NG=None), random(21, 512, seed=1)
    told = replace(plain, zeros_NG=torch.zeros_like(plain.scales_NG))
    expected = product(pack_quantised(plain), x, threads=2, path=path)
    assert torch.equal(product(pack_quantised(told), x, threads=2, path=path), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BITS)
def test_a_row_does_not_depend_on_its_company_or_on_threads(path: str, kind: Kind) -> None:
    matrix, x = pack_quantised(asymmetric(176, 512, BITS[kind])), random(21, 512, seed=1)
    together = product(matrix, x, threads=2, path=path)
    for row in range(21):
        assert torch.equal(
            product(matrix, x[row : row + 1].contiguous(), threads=1, path=path)[0], together[row]
        )
    for count in range(1, 14):
        for cold in (False, True):
            found = product(matrix, x[:count].contiguous(), threads=2, path=path, cold=cold)
            assert torch.equal(found, together[:count]), (count, cold)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BITS)
def test_what_is_no_number_stays_none(path: str, kind: Kind) -> None:
    matrix, x = pack_quantised(asymmetric(48, 96, BITS[kind])), random(5, 96, seed=1)
    expected = product(matrix, x, path=path)
    for place, spoilt in ((0, torch.nan), (40, torch.inf), (95, -torch.inf)):
        wrong = x.clone()
        wrong[2, place] = spoilt
        found = product(matrix, wrong, path=path)
        assert not found[2].isfinite().any()
        assert torch.equal(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
    assert product(matrix, torch.zeros(2, 96), path=path).abs().max() == 0


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 128])
def test_codes_go_in_without_loss(bits: int, group: int, signed: bool) -> None:
    """Beside matrices without zero points, in any order, with rows of zeros between."""
    parts = []
    for number, outputs in enumerate((13, 30, 9)):
        source = asymmetric(outputs, 256, bits, seed=number)
        codes = source.q_NK if signed and bits == 8 else pack_words(source.q_NK, bits)
        scales, zeros = (
            part.view(outputs, -1, group // GROUP)[:, :, 0] for part in (source.scales_NG, source.zeros_NG)
        )
        zeros = (None, zeros, zeros.float().round().to(torch.int16))[number]
        parts.append(Stored(codes, scales, bits, 256, zeros))
    rows = rows_of(parts, "int8" if bits == 8 else "int4")
    assert rows is not None
    order = torch.randperm(54, generator=torch.Generator().manual_seed(3))

    def arranged(vector: Tensor) -> Tensor:
        return torch.cat([vector, vector.new_zeros(2, *vector.shape[1:])])[order]

    found = pack_rows(rows.arranged(arranged))
    assert found.group == group
    whole = stacked_codes([part.quantised(group) for part in parts], bits)
    expected = pack_quantised(blocks(whole.changed(arranged)))
    assert same(found, expected)
    assert found.zeros is not None
    assert found.zeros.any()


def test_a_quantised_matrix_is_what_its_codes_say() -> None:
    source = asymmetric(3, 64, 4)
    assert source.zeros_NG is not None
    for n, k in ((0, 0), (1, 40), (2, 63)):
        scale, zero = float(source.scales_NG[n, k // 32]), float(source.zeros_NG[n, k // 32])
        assert float(source.dequantised()[n, k]) == pytest.approx(scale * (int(source.q_NK[n, k]) - zero))
    stored = Stored(pack_words(source.q_NK, 4), source.scales_NG, 4, 64, source.zeros_NG)
    assert torch.equal(stored.values(), source.dequantised().half())
    assert torch.equal(stored.quantised().dequantised(), source.dequantised())


@pytest.mark.parametrize("kind", BITS)
def test_matrices_take_over_from_one_another(kind: Kind) -> None:
    x = random(3, 128, seed=1)
    first, second = (asymmetric(32, 128, BITS[kind], seed=seed) for seed in (1, 2))
    plain = quantise(random(32, 128), BITS[kind])
    matrix = Room().take_in(pack_quantised(first))
    assert matrix.nbytes == 32 * 128 * BITS[kind] // 8 + 2 * 2 * 32 * 4
    for source in (second, plain, first):
        matrix.take_over(pack_quantised(source))
        assert torch.equal(product(matrix, x), product(pack_quantised(source), x))
    symmetric = pack(random(32, 128), kind)
    assert symmetric.zeros is None
    with pytest.raises(AssertionError):
        symmetric.take_over(matrix)


@pytest.mark.parametrize("kind", BITS)
def test_stacked_maps_are_those_of_each(kind: Kind) -> None:
    x = random(3, 128, seed=1)
    several = [
        pack_quantised(asymmetric(48, 128, BITS[kind], seed=seed), bias_N=random(48)) for seed in range(3)
    ]
    stack = pack_stacked(lambda number: several[number], 3)
    assert stack.rows == 3 * 48
    expected = torch.cat([product(one, x) for one in several], dim=1)
    assert torch.equal(product(stack, x), expected)


def same(one: PackedMatrix, other: PackedMatrix) -> bool:
    parts = ((one.weights, other.weights), (one.scales, other.scales), (one.zeros, other.zeros))
    return all(
        mine is not None and theirs is not None and torch.equal(mine, theirs) for mine, theirs in parts
    )
