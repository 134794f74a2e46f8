"""Learned decoding: the soft nucleus, its limits, what is masked and weighed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hanok.training.objectives.autodeco import (
    autodeco_loss,
    control_ranking_loss,
    keep_hard_tokens,
    label_confidence,
    nucleus_nats,
    soft_nucleus,
    temperature_nats,
)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOGITS = numbers(0.5, 0.3, 0.15, 0.05).log()[None]
ONE = numbers(1.0)


def case(rows: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, 7, generator=generator, dtype=torch.float64) * 2
    temperature, top_p = torch.rand(2, rows, generator=generator, dtype=torch.float64) * 0.8 + 0.15
    return logits, torch.randint(0, 7, (rows,), generator=generator), temperature * 2, top_p


def test_by_hand() -> None:
    """c = .5, .8, .95, 1 and P = .9: the last two are attenuated by e^-1.5 and e^-3."""
    mask = [1.0, 1.0, math.exp(-30 * 0.05), math.exp(-30 * 0.1)]
    raw = [p * m for p, m in zip([0.5, 0.3, 0.15, 0.05], mask, strict=True)]
    expected = [x / (sum(raw) + 1e-9) for x in raw]
    assert soft_nucleus(LOGITS, ONE, numbers(0.9))[0].tolist() == pytest.approx(expected, abs=1e-9)
    nats = nucleus_nats(LOGITS, torch.tensor([2]), ONE, numbers(0.9))
    assert nats.item() == pytest.approx(-math.log(expected[2] + 1e-9))
    # whatever the order of the vocabulary
    swapped = soft_nucleus(LOGITS[:, [2, 0, 3, 1]], ONE, numbers(0.9))[0]
    assert swapped.tolist() == pytest.approx([expected[i] for i in (2, 0, 3, 1)], abs=1e-9)


def test_hard_limit_leaves_out_the_token_that_crosses() -> None:
    logits, _, temperature, _ = case(50)
    top_p = torch.linspace(0.05, 0.999, 50, dtype=torch.float64)
    law = (logits / temperature[:, None]).softmax(1)
    ordered, order = law.sort(1, descending=True)
    inside = torch.zeros_like(law).scatter(1, order, (ordered.cumsum(1) <= top_p[:, None]).double())
    expected = law * inside / (law * inside).sum(1, keepdim=True).clamp(min=1e-300)
    some = inside.sum(1) > 0
    assert 5 < int(some.sum()) < 50
    ours = soft_nucleus(logits, temperature, top_p, alpha=1e6)
    assert torch.allclose(ours[some], expected[some], atol=1e-6)
    assert float(ours[~some].max()) < 1e-6  # nothing is left where the first token alone is above P


def test_gradients_are_finite_differences() -> None:
    logits, targets, temperature, top_p = case()
    both = (temperature.requires_grad_(), top_p.requires_grad_())
    assert torch.autograd.gradcheck(lambda t, p: nucleus_nats(logits, targets, t, p), both)
    assert torch.autograd.gradcheck(lambda t: temperature_nats(logits, targets, t), both[:1])


def test_loss_is_the_released_trainers() -> None:
    logits, targets, temperature, top_p = case()
    mask = torch.tensor([True, True, False, True, True, True])
    keep = torch.tensor([True, False, True, True, False, True])
    logits[2] = torch.nan
    loss = autodeco_loss(logits, targets, temperature, top_p, mask, keep, step_tokens=10)
    total = 0.0
    for i in (0, 1, 3, 4, 5):
        row, y = logits[i : i + 1], targets[i : i + 1]
        confidence = float(row.softmax(1)[0, y])
        total += confidence * float(nucleus_nats(row, y, temperature[i : i + 1], top_p[i : i + 1]))
        if keep[i]:
            total += confidence * float(temperature_nats(row, y, temperature[i : i + 1]))
    assert loss.objective.item() == pytest.approx(total / 10)
    assert float(loss.metrics["kept"]) == 3
    assert float(loss.metrics["top_p"]) == pytest.approx(float(top_p[mask].sum()))


def test_only_the_heads_learn() -> None:
    logits, targets, temperature, top_p = case()
    logits.requires_grad_()
    temperature.requires_grad_()
    top_p.requires_grad_()
    everything = torch.ones(6, dtype=torch.bool)
    autodeco_loss(
        logits, targets, temperature, top_p, everything, everything, step_tokens=6
    ).objective.backward()
    assert logits.grad is None
    assert temperature.grad is not None
    assert top_p.grad is not None


def test_easy_tokens_are_dropped_at_their_rate() -> None:
    logits = torch.zeros(20_000, 3)
    logits[:, 1] = 1.0
    targets = torch.ones(20_000, dtype=torch.int64)
    targets[:10_000] = 2
    keep = keep_hard_tokens(logits, targets, torch.Generator().manual_seed(0))
    assert keep[:10_000].all()  # the model would have said something else
    assert float(keep[10_000:].double().mean()) == pytest.approx(0.4, abs=0.02)
    again = keep_hard_tokens(logits, targets, torch.Generator().manual_seed(0))
    assert torch.equal(keep, again)


def test_confidence_is_the_probability_of_the_label() -> None:
    assert label_confidence(LOGITS, torch.tensor([2])).item() == pytest.approx(0.15)


def test_temperatures_learn_where_the_text_is_certain() -> None:
    """Two kinds of position: one certain, one uniform. Each gets the temperature that fits."""
    generator = torch.Generator().manual_seed(0)
    certain = torch.arange(400) % 2 == 0
    logits = torch.where(certain[:, None], numbers(2.0, 0, 0, 0), numbers(1.0, 0, 0, 0))
    targets = torch.where(certain, 0, torch.randint(0, 4, (400,), generator=generator))
    raw = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([raw], lr=0.1)
    for _ in range(100):
        temperature = 2 * raw.sigmoid()[certain.long()]
        optimiser.zero_grad()
        temperature_nats(logits, targets, temperature).mean().backward()
        optimiser.step()
    uncertain_T, certain_T = (2 * raw.sigmoid()).tolist()
    assert certain_T < 0.5
    assert uncertain_T > 1.5


def test_ranking() -> None:
    loss = control_ranking_loss(
        numbers(0.5, 0.7, 0.5), numbers(0.7, 0.7, 0.9), numbers(0.9, 0.9, 0.7), margin=0.1
    )
    assert loss.tolist() == pytest.approx([0.0, 0.1, 0.3])
