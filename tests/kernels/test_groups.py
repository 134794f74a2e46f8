"""Scales of more than 32 inputs: an image that keeps one gives what one that repeats it gives, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hanok.kernels.formats import GROUP, Quantised, Stored, pack_words, quantise, span_of
from hanok.kernels.native import native, native_available
from hanok.kernels.packed import Kind, Room, pack, pack_quantised, pack_rows, pack_stacked, product, rows_of

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
BITS: dict[Kind, int] = {"int8": 8, "int5": 5, "int4": 4}
PATHS = native().step_paths() if native_available() else []


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(outputs: int, inputs: int, bits: int, group: int, *, zeros: bool) -> Quantised:
    found = quantise(random(outputs, inputs), bits, group)
    shape = found.scales_NG.shape
    return Quantised(found.q_NK, found.scales_NG, bits, random(*shape, seed=1).half() if zeros else None)


def repeated(source: Quantised, group: int) -> Quantised:
    parts = (
        None if part is None else part.repeat_interleave(group // GROUP, dim=1)
        for part in (source.scales_NG, source.zeros_NG)
    )
    scales_NG, zeros_NG = parts
    assert scales_NG is not None
    return Quantised(source.q_NK, scales_NG, source.bits, zeros_NG)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("group", "inputs"), [(64, 192), (128, 384), (256, 256), (1024, 1024)])
def test_as_many_scales_as_there_are(path: str, kind: Kind, zeros: bool, group: int, inputs: int) -> None:
    source = codes(48, inputs, BITS[kind], group, zeros=zeros)
    few, many = pack_quantised(source), pack_quantised(repeated(source, group))
    assert (few.group, many.group) == (group, GROUP)
    assert few.nbytes < many.nbytes
    for rows in (1, 3, 8, 21):
        x = random(rows, inputs, seed=2)
        assert torch.equal(product(few, x, path=path), product(many, x, path=path))
    kept = Room().take_in(few)
    assert kept.group == group
    assert torch.equal(product(kept, x, path=path), product(few, x, path=path))
    stack = pack_stacked(lambda expert: few, 2)
    assert stack.group == group
    assert torch.equal(product(stack, x, path=path), product(few, x, path=path).repeat(1, 2))


@pytest.mark.parametrize(
    ("groups", "scales", "span"), [(4, 4, 0), (4, 1, 2), (12, 1, 2), (12, 4, 0), (12, 6, 1), (3, 1, 0)]
)
def test_powers_of_two_share(groups: int, scales: int, span: int) -> None:
    assert span_of(groups, scales) == span


def test_a_scale_a_row_and_rows_that_differ() -> None:
    """Twelve groups with one scale keep three; where rows have different numbers of scales all have those of 32 inputs."""

    def stored(count: int) -> Stored:
        found = quantise(random(16, 384, seed=count), 4, 384 // count)
        return Stored(pack_words(found.q_NK, 4), found.scales_NG, 4, 384)

    for counts, group in (((1, 1), 128), ((3, 3), 128), ((3, 1), GROUP), ((12, 3), GROUP)):
        parts = [stored(count) for count in counts]
        rows = rows_of(parts, "int4")
        assert rows is not None
        found, x = pack_rows(rows), random(5, 384)
        assert found.group == group
        whole = torch.cat([product(pack_quantised(part.quantised()), x) for part in parts], dim=1)
        assert torch.equal(product(found, x), whole)


@pytest.mark.parametrize("kind", BITS)
def test_numbers_in_larger_groups(kind: Kind) -> None:
    weight = random(40, 256)
    found = pack(weight, kind, group=128)
    assert found.group == 128
    filled = torch.nn.functional.pad(weight, (0, 0, 0, 8))
    expected = quantise(filled, BITS[kind], 128)
    assert torch.equal(found.weights, pack_quantised(expected).weights)
    error = (expected.dequantised() - filled).square().mean()
    finer = (quantise(filled, BITS[kind]).dequantised() - filled).square().mean()
    assert finer < error < 3 * finer
