"""Rounding for measurements: of caches and of what the maps read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hanok.compression.fake import round_cache, round_rows, rounded_cache, rounded_inputs, turn_inner
from hanok.compression.folds import apply_fold, folds_of
from hanok.compression.rotate import Rotation
from hanok.models.decoder import Block, Decoder

IDS, BOUNDS = torch.arange(20, 60), torch.tensor([0, 40], dtype=torch.int32)


def hidden(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, BOUNDS)[0]


def test_levels() -> None:
    x = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(1))
    assert len(round_rows(x, 4)[0, 0].unique()) <= 16
    assert len(round_cache(x, 4)[0, 0, :32].unique()) <= 16
    for bits in (4, 8):
        steps = (x.amax(-1) - x.amin(-1)).max() / ((1 << bits) - 2)
        assert (round_cache(x, bits) - x).abs().max() <= steps
    flat = torch.zeros(2, 2, 16)
    assert torch.equal(round_cache(flat, 4), flat)


@pytest.mark.parametrize("rounding", [rounded_cache, rounded_inputs])
def test_it_rounds_while_it_is_open(small_decoder: Callable[..., Decoder], rounding: Callable) -> None:
    model = small_decoder(num_kv_heads=2)
    before = hidden(model)
    lost = []
    for bits in (8, 4):
        with rounding(model, bits):
            lost.append(float((hidden(model) - before).norm()))
    assert 0 < lost[0] < lost[1]
    assert torch.equal(hidden(model), before)


def test_rotation_helps_four_bit_inputs_with_outliers(small_decoder: Callable[..., Decoder]) -> None:
    """Some channels behind each norm are 40 times larger, and their readers' columns smaller: the same function."""

    def with_outliers() -> Decoder:
        model = small_decoder(num_kv_heads=2)
        for block in model.layers:
            assert isinstance(block, Block)
            for fold in folds_of(block):
                if fold.source.endswith("layernorm"):
                    scale_K = torch.ones(64)
                    scale_K[torch.tensor([5, 33])] = 1 / 40
                    apply_fold(block, fold, scale_K)
        return model

    plain, turned = with_outliers(), with_outliers()
    expected = torch.nn.functional.linear(hidden(plain), plain.head_weight)
    rotation = Rotation.of(turned, 1)
    for block in turned.layers:
        assert isinstance(block, Block)
        rotation.turn_block(block)
        turn_inner(block)
    rotation.turn_ends(turned)
    assert torch.allclose(torch.nn.functional.linear(hidden(turned), turned.head_weight), expected, atol=1e-3)
    lost = []
    for model in (plain, turned):
        with rounded_inputs(model, 4):
            found = torch.nn.functional.linear(hidden(model), model.head_weight)
        lost.append(float((found - expected).norm() / expected.norm()))
    assert lost[1] < 0.6 * lost[0], lost
