"""Scores from pairs and from steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hanok.training.objectives.reward_model import (
    bradley_terry_loss,
    process_reward_loss,
    soft_bradley_terry_loss,
)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CHOSEN, REJECTED = numbers(1.2), numbers(0.7)


def test_vectors() -> None:
    assert bradley_terry_loss(CHOSEN, REJECTED).losses_P.item() == pytest.approx(0.4740769842, abs=1e-9)
    with_margin = bradley_terry_loss(CHOSEN, REJECTED, margin_P=numbers(0.3))
    assert with_margin.losses_P.item() == pytest.approx(0.5981388694, abs=1e-9)
    centred = bradley_terry_loss(CHOSEN, REJECTED, centring=0.01)
    assert centred.losses_P.item() == pytest.approx(0.5101769842, abs=1e-9)
    assert centred.metrics["accuracy"].tolist() == [1.0]


def test_soft_labels_meet_hard_ones_at_the_ends() -> None:
    hard = bradley_terry_loss(CHOSEN, REJECTED).losses_P
    assert soft_bradley_terry_loss(CHOSEN, REJECTED, numbers(1.0)).losses_P.item() == pytest.approx(
        hard.item()
    )
    flipped = bradley_terry_loss(REJECTED, CHOSEN).losses_P
    soft = soft_bradley_terry_loss(CHOSEN, REJECTED, numbers(0.25)).losses_P
    assert soft.item() == pytest.approx((0.25 * hard + 0.75 * flipped).item())


def test_steps() -> None:
    losses, metrics = process_reward_loss(numbers(0.0, 2.0, -1.0), numbers(1, 1, 0.7))
    by_hand = [
        math.log(2),
        math.log1p(math.exp(-2)),
        0.7 * math.log1p(math.e) + 0.3 * math.log1p(math.exp(-1)),
    ]
    assert losses.tolist() == pytest.approx(by_hand)
    assert metrics["accuracy"].tolist() == [0, 1, 0]


def test_gradients_are_finite_differences() -> None:
    first, second = torch.randn(2, 5, dtype=torch.float64).requires_grad_().unbind()
    assert torch.autograd.gradcheck(
        lambda a, b: bradley_terry_loss(a, b, margin_P=numbers(0.3), centring=0.05).losses_P, (first, second)
    )
    assert torch.autograd.gradcheck(
        lambda a, b: soft_bradley_terry_loss(a, b, numbers(0.3).expand(5)).losses_P, (first, second)
    )
    assert torch.autograd.gradcheck(lambda a: process_reward_loss(a, torch.full((5,), 0.2))[0], (first,))
