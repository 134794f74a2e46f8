"""Losses on preferences: numeric vectors, finite differences, steps that add up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.training.objectives.anchored import (
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    nca_loss,
    sppo_loss,
)
from hanok.training.objectives.cpo import cpo_loss
from hanok.training.objectives.dpo import (
    dpo_loss,
    hinge_loss,
    length_normalised_dpo_loss,
    robust_dpo_loss,
)
from hanok.training.objectives.ipo import ipo_loss
from hanok.training.objectives.kto import kto_loss, mismatch, reference_point
from hanok.training.objectives.orpo import log_odds_ratio, orpo_loss
from hanok.training.objectives.simpo import simpo_loss

Loss = Callable[..., Any]


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# chosen, rejected, reference of chosen, reference of rejected
FOUR = (numbers(-12), numbers(-15), numbers(-13), numbers(-14.5))
LENGTHS = (numbers(6), numbers(5))
MEANS = (numbers(-2), numbers(-3))

VECTORS: list[tuple[str, Loss, tuple[Tensor, ...], float]] = [
    ("sigmoid", dpo_loss, FOUR, 0.6209570478),
    ("cDPO", partial(dpo_loss, label_smoothing=0.1), FOUR, 0.6359570478),
    ("robust", partial(robust_dpo_loss, label_smoothing=0.1), FOUR, 0.6022070478),
    ("hinge", hinge_loss, FOUR, 0.85),
    ("IPO", ipo_loss, (*FOUR, *LENGTHS), 22.4044444444),
    ("APO-zero", apo_zero_loss, FOUR, 0.9625234160),
    ("SPPO", sppo_loss, FOUR, 36.25),
    ("NCA", nca_loss, FOUR, 1.3508248141),
    ("BCO", bco_loss, FOUR, 1.3128563081),
    ("SimPO, beta 2", partial(simpo_loss, beta=2.0, gamma=0.5), MEANS, 0.2014132780),
    ("SimPO, beta 0.1", partial(simpo_loss, beta=0.1, gamma=0.5), MEANS, 0.9130152524),
    ("ORPO", orpo_loss, MEANS, 2.0 + 0.0288750784),
    # by hand: sigmoid(0.1) + 1 - sigmoid(0.15); -log sigmoid(0.1 * 0.26666667); -log sigmoid(0.3) + 12 / 6
    ("APO-down", apo_down_loss, FOUR, 0.5249791875 + 1 - 0.5374298453),
    ("length-normalised", length_normalised_dpo_loss, (*FOUR, *LENGTHS), 0.6799027082),
    ("CPO", cpo_loss, (FOUR[0], FOUR[1], LENGTHS[0]), 0.5543552444685272 + 2.0),
]


@pytest.mark.parametrize(("name", "loss", "inputs", "expected"), VECTORS, ids=[v[0] for v in VECTORS])
def test_vectors(name: str, loss: Loss, inputs: tuple[Tensor, ...], expected: float) -> None:
    assert loss(*inputs).losses_P.item() == pytest.approx(expected, abs=1e-6)


def test_log_odds() -> None:
    assert log_odds_ratio(*MEANS).item() == pytest.approx(1.0943442769, abs=1e-9)


@pytest.mark.parametrize(
    ("desirable", "ratio", "expected"), [(True, 1.0, 0.4775151752), (False, -0.5, 0.4850044984)]
)
def test_kto_vectors(desirable: bool, ratio: float, expected: float) -> None:
    loss = kto_loss(numbers(ratio), numbers(0.0), torch.tensor([desirable]), torch.tensor(0.1))
    assert loss.losses_B.item() == pytest.approx(expected, abs=1e-9)
    weighted = kto_loss(
        numbers(ratio), numbers(0.0), torch.tensor([desirable]), torch.tensor(0.1),
        desirable_weight=3.0, undesirable_weight=5.0,
    )  # fmt: skip
    assert weighted.losses_B.item() == pytest.approx(expected * (3.0 if desirable else 5.0), abs=1e-9)


def test_kto_reference_point_is_of_other_completions_and_never_negative() -> None:
    assert mismatch(3) == [1, 2, 0]
    assert reference_point(numbers(-3, -4), numbers(-4, -5)).item() == 1.0
    assert reference_point(numbers(-6, -4), numbers(-4, -5)).item() == 0.0


@pytest.mark.parametrize(("name", "loss", "inputs", "expected"), VECTORS, ids=[v[0] for v in VECTORS])
def test_gradients_are_finite_differences(
    name: str, loss: Loss, inputs: tuple[Tensor, ...], expected: float
) -> None:
    generator = torch.Generator().manual_seed(7)
    policy = [(x.expand(4) + torch.rand(4, generator=generator, dtype=torch.float64)) for x in inputs[:2]]
    rest = [x.expand(4) for x in inputs[2:]]

    def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss(chosen, rejected, *rest).losses_P

    assert torch.autograd.gradcheck(losses, [x.requires_grad_() for x in policy])


def test_kto_gradient() -> None:
    logp = torch.linspace(-4, 3, 6, dtype=torch.float64).requires_grad_()
    desirable = torch.tensor([True, False] * 3)

    def losses(x: Tensor) -> Tensor:
        return kto_loss(x, torch.zeros_like(x), desirable, torch.tensor(0.3), beta=0.7).losses_B

    assert torch.autograd.gradcheck(losses, [logp])


@pytest.mark.parametrize(("name", "loss", "inputs", "expected"), VECTORS, ids=[v[0] for v in VECTORS])
def test_micro_batches_add_up(name: str, loss: Loss, inputs: tuple[Tensor, ...], expected: float) -> None:
    generator = torch.Generator().manual_seed(3)
    batch = [(x.expand(8) - torch.rand(8, generator=generator, dtype=torch.float64)) for x in inputs]
    whole = (loss(*batch).losses_P.sum() / 8).item()
    parts = sum((loss(*(x[i : i + 1] for x in batch)).losses_P.sum() / 8).item() for i in range(8))
    assert parts == pytest.approx(whole, rel=1e-12)


def test_metrics_are_implicit_rewards() -> None:
    chosen, rejected = numbers(-12, -20, -5), numbers(-15, -18, -5)
    result = dpo_loss(
        chosen.requires_grad_(), rejected, numbers(-13, -13, -5), numbers(-14.5, -14.5, -5), beta=0.1
    )
    assert result.metrics["reward_chosen"].tolist() == pytest.approx([0.1, -0.7, 0.0])
    assert result.metrics["margin"].tolist() == pytest.approx([0.15, -0.35, 0.0])
    assert result.metrics["accuracy"].tolist() == [1.0, 0.0, 0.0]  # a tie is no success
    assert not any(x.requires_grad for x in result.metrics.values())


def test_orpo_stands_certain_and_impossible_answers() -> None:
    means = torch.tensor([0.0, -1e-9, -40.0, -0.69314718], requires_grad=True)
    loss = orpo_loss(means, means.detach().flip(0)).losses_P.sum()
    loss.backward()
    assert loss.isfinite()
    assert means.grad is not None
    assert means.grad.isfinite().all()


def test_robust_needs_less_than_half_flipped() -> None:
    with pytest.raises(ConfigError, match=r"0 <= e < 0\.5"):
        robust_dpo_loss(*FOUR, label_smoothing=0.5)
