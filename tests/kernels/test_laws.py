"""Temperature and top-p in one native call, against the heads in PyTorch."""

from __future__ import annotations

import pytest
import torch

from hanok.kernels import laws
from hanok.kernels.laws import HeadWeights, decoding_laws
from hanok.kernels.native import native_available
from hanok.models.decoding import DecodingHeads, law_features

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")


def case(
    width: int, vocabulary: int, scale: float
) -> tuple[DecodingHeads, list[torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(width + vocabulary)
    heads = DecodingHeads(width).requires_grad_(False)
    for parameter in heads.parameters():
        parameter.normal_(std=width**-0.5, generator=generator)
    hidden = torch.randn(7, width, generator=generator)
    return heads, list(heads.parameters()), hidden, torch.randn(7, vocabulary, generator=generator) * scale


@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0, 60.0])
@pytest.mark.parametrize(
    ("width", "vocabulary"), [(32, 266), (64, 5), (48, 2), (33, 1003), (192, 2048), (1024, 40_001)]
)
def test_equals_the_heads(width: int, vocabulary: int, scale: float) -> None:
    heads, weights, hidden, logits = case(width, vocabulary, scale)
    rows = [0, 2, 3, 6]
    ours = torch.tensor(decoding_laws(HeadWeights(weights), hidden, logits, rows))
    temperature, top_p = heads.laws(hidden[rows], logits[rows])
    torch.testing.assert_close(ours, torch.stack([temperature, top_p], dim=1), atol=2e-5, rtol=1e-5)


def test_each_feature() -> None:
    """Through a top-p head that passes one feature on."""
    heads, weights, hidden, logits = case(32, 999, 3.0)
    features = law_features(logits, heads.temperature(hidden))
    for number in range(4):
        first, bias, second, last = weights[4:]
        for parameter in (first, bias, second, last):
            parameter.zero_()
        first[0, 33 + number], second[0, 0] = 1.0, 1.0
        found = torch.tensor(decoding_laws(HeadWeights(weights), hidden, logits, range(7)))[:, 1].logit()
        torch.testing.assert_close(found, features[:, number], atol=2e-5, rtol=2e-5)


def test_company_and_padding_change_nothing() -> None:
    """To the bit; logits may be a part of wider rows."""
    _, weights, hidden, logits = case(64, 3000, 4.0)
    together = decoding_laws(HeadWeights(weights), hidden, logits[:, :2500], range(7))
    alone = [
        decoding_laws(HeadWeights(weights), hidden[row : row + 1], logits[row : row + 1, :2500], [0])[0]
        for row in range(7)
    ]
    assert together == alone
    assert decoding_laws(HeadWeights(weights), hidden, logits, [5, 1]) != [
        together[5],
        together[1],
    ]  # other logits, another law


@pytest.mark.parametrize("width", [32, 33])
def test_weights_of_two_bytes_give_the_same_bits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of four that say the same; weights that need four keep them."""
    _, weights, hidden, logits = case(width, 500, 3.0)

    def bits(tensors: list[torch.Tensor]) -> tuple[int, list[tuple[float, float]]]:
        held = HeadWeights(tensors)
        return sum(tensor.nbytes for tensor in held._tensors), decoding_laws(held, hidden, logits, range(7))

    exact_bytes, exact = bits(weights)
    rounded = [
        tensor.bfloat16().float() if place in (0, 4) else tensor for place, tensor in enumerate(weights)
    ]
    few_bytes, found = bits(rounded)
    one_each = bits([rounded[0], *weights[1:]])
    with monkeypatch.context() as patch:
        patch.setattr(laws, "fits_bfloat16", lambda tensor: False)
        many_bytes, expected = bits(rounded)
        assert bits([rounded[0], *weights[1:]]) == (many_bytes, one_each[1])
    assert found == expected
    assert found != exact
    assert few_bytes < 0.6 * many_bytes
    assert few_bytes < one_each[0] < exact_bytes == many_bytes


def test_extremes() -> None:
    _, weights, hidden, logits = case(32, 266, 1.0)
    weights[3].fill_(-200.0)  # temperature 0
    weights[7].fill_(-200.0)  # top-p 0
    assert decoding_laws(HeadWeights(weights), hidden, logits * 1000, [0])[0] == pytest.approx([1e-2, 1e-6])
    weights[3].fill_(0.0)
    weights[7].fill_(0.0)
    logits[1, 3] = torch.nan
    assert all(0 < x < 2 for x in decoding_laws(HeadWeights(weights), hidden, logits, [0])[0])
