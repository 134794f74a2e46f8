"""The chunked loss against plain cross-entropy: values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.training.objectives import cross_entropy
from hanok.training.objectives.cross_entropy import linear_cross_entropy, linear_nll


def case(rows: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 24, generator=generator)
    weight = torch.randn(vocabulary, 24, generator=generator) * 0.3
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=generator)


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


@pytest.mark.parametrize("rows", [1, 7, 64, 65, 200])
def test_equals_plain_cross_entropy(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK", 64)
    hidden, weight, targets = case(rows, 53)
    hidden.requires_grad_()
    weight.requires_grad_()
    ours = linear_cross_entropy(hidden, weight, targets)
    plain = F.cross_entropy(hidden @ weight.mT, targets, reduction="sum")
    assert torch.allclose(ours, plain, rtol=1e-5)
    for a, b in zip(
        gradients(ours * 0.25, hidden, weight), gradients(plain * 0.25, hidden, weight), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_bfloat16_is_near() -> None:
    hidden, weight, targets = case(600, 300)
    hidden.requires_grad_()
    weight.requires_grad_()
    ours = linear_cross_entropy(hidden, weight, targets, dtype=torch.bfloat16)
    plain = F.cross_entropy(hidden @ weight.mT, targets, reduction="sum")
    assert float(ours.detach()) == pytest.approx(float(plain.detach()), rel=2e-3)
    for a, b in zip(gradients(ours, hidden, weight), gradients(plain, hidden, weight), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


def test_rows_and_an_empty_batch() -> None:
    hidden, weight, targets = case(130, 40)
    expected = F.cross_entropy(hidden @ weight.mT, targets, reduction="none")
    assert torch.allclose(linear_nll(hidden, weight, targets), expected, atol=1e-5)
    nothing = linear_cross_entropy(hidden[:0].requires_grad_(), weight.requires_grad_(), targets[:0])
    assert float(nothing.detach()) == 0
    assert torch.equal(gradients(nothing, weight)[0], torch.zeros_like(weight))
