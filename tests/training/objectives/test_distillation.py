"""Divergences of student and teacher."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.training.objectives import distillation
from hanok.training.objectives.distillation import (
    forward_kl,
    generalised_jsd,
    minillm_advantages,
    on_policy_advantages,
    reverse_kl,
    top_k_kl,
)

ALL = [forward_kl, reverse_kl, generalised_jsd, partial(generalised_jsd, beta=0.1)]


def laws(rows: int = 6, vocabulary: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    student, teacher = torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64) * 2
    return student.requires_grad_(), teacher.requires_grad_()


def by_hand(p: Tensor, q: Tensor) -> list[float]:
    return [
        sum(a * math.log(a / b) for a, b in zip(x, y, strict=True))
        for x, y in zip(p.tolist(), q.tolist(), strict=True)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_ends_of_the_scale_by_hand(temperature: float) -> None:
    student, teacher = laws()
    s, t = ((x / temperature).softmax(1).detach() for x in (student, teacher))
    for beta, expected in ((0.0, by_hand(t, s)), (1.0, by_hand(s, t))):
        ours = generalised_jsd(student, teacher, beta=beta, temperature=temperature)
        assert ours.tolist() == pytest.approx(expected, abs=1e-9)
    m = 0.3 * t + 0.7 * s
    mixed = [0.3 * a + 0.7 * b for a, b in zip(by_hand(t, m), by_hand(s, m), strict=True)]
    assert generalised_jsd(student, teacher, beta=0.3, temperature=temperature).tolist() == pytest.approx(
        mixed
    )


def test_the_middle_is_symmetric_and_bounded() -> None:
    student, teacher = laws()
    there, back = generalised_jsd(student, teacher), generalised_jsd(teacher, student)
    assert torch.allclose(there, back)
    assert float(there.detach().max()) <= math.log(2)
    far = torch.tensor([[100.0, 0.0]], dtype=torch.float64)
    assert generalised_jsd(far, far.flip(1)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("divergence", ALL)
def test_no_gradient_for_the_teacher_and_none_where_both_agree(divergence: partial[Tensor]) -> None:
    student, teacher = laws()
    divergence(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(student.grad.abs().max()) > 0.01
    same = student.detach().clone().requires_grad_()
    value = divergence(same, student.detach())
    assert float(value.detach().abs().max()) < 1e-12
    value.sum().backward()
    assert same.grad is not None
    assert float(same.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("divergence", ALL)
def test_gradients_are_finite_differences(divergence: partial[Tensor]) -> None:
    student, teacher = laws(3)
    assert torch.autograd.gradcheck(lambda x: divergence(x, teacher.detach(), temperature=1.4), (student,))


@pytest.mark.parametrize("divergence", ALL)
def test_a_teacher_with_impossible_tokens(divergence: partial[Tensor]) -> None:
    student, teacher = laws(2)
    closed = teacher.detach().clone()
    closed[:, 0] = -1e4  # probability 0 in float64
    value = divergence(student, closed)
    value.sum().backward()
    assert value.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_beta_outside_its_range() -> None:
    with pytest.raises(ConfigError, match="forward KL"):
        generalised_jsd(*laws(), beta=1.5)


def test_top_k() -> None:
    student, teacher = laws(6, 9)
    full = forward_kl(student, teacher)
    logp, ids = teacher.detach().log_softmax(1).sort(1, descending=True)
    assert torch.allclose(top_k_kl(student, ids, logp), full, atol=1e-5)  # all kept: the rest is empty
    rising = [top_k_kl(student, ids[:, :k], logp[:, :k]) for k in (1, 3, 6, 8)]
    for fewer, more in zip(rising, [*rising[1:], full], strict=True):
        assert (fewer <= more + 1e-12).all()
    assert torch.autograd.gradcheck(lambda x: top_k_kl(x, ids[:, :3], logp[:, :3]), (student,))
    # kept in float16, as on disk
    stored = top_k_kl(student, ids[:, :6], logp[:, :6].half())
    assert torch.allclose(stored, rising[2], atol=1e-2)


def test_top_k_by_hand() -> None:
    student = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    value = top_k_kl(student, torch.tensor([[2]]), torch.tensor([[0.6]], dtype=torch.float64).log())
    assert value.item() == pytest.approx(0.6 * math.log(0.6 / 0.2) + 0.4 * math.log(0.4 / 0.8))


def test_from_hidden_vectors_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "_CHUNK", 3)
    generator = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = torch.randn(2, 7, 4, generator=generator)
    weight, teacher_weight = torch.randn(2, 6, 4, generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    ours = distillation.by_rows(
        lambda mine, other: forward_kl(mine @ weight.mT, other @ teacher_weight.mT), hidden, teacher_hidden
    )
    plain = forward_kl(hidden @ weight.mT, teacher_hidden @ teacher_weight.mT)
    assert torch.allclose(ours, plain, atol=1e-6)
    for mine, other in zip(
        torch.autograd.grad(ours.sum(), (hidden, weight)), torch.autograd.grad(plain.sum(), (hidden, weight)),
        strict=True,
    ):  # fmt: skip
        assert torch.allclose(mine, other, atol=1e-5)


def test_sampled_advantages_have_the_reverse_divergence_as_their_mean() -> None:
    student, teacher = (x[:1].detach() for x in laws())
    draws = torch.multinomial(
        student.softmax(1)[0], 20_000, replacement=True, generator=torch.Generator().manual_seed(3)
    )
    mask = torch.ones(len(draws), dtype=torch.bool)
    sampled = -on_policy_advantages(student.log_softmax(1)[0, draws], teacher.log_softmax(1)[0, draws], mask)
    exact = reverse_kl(student, teacher).item()
    assert abs(sampled.mean().item() - exact) < 3 * sampled.std().item() / math.sqrt(len(draws))


def test_minillm_looks_at_what_follows() -> None:
    student = torch.zeros(7, dtype=torch.float64)
    teacher = torch.tensor([1.0, torch.nan, 2.0, 6.0, 4.0, 3.0, 5.0], dtype=torch.float64)
    mask = torch.tensor([1, 0, 1, 1, 1, 1, 0], dtype=torch.bool)
    advantages = minillm_advantages(student, teacher, mask, torch.tensor([0, 4, 7]))
    # first sequence 1, 2, 6: after the first come 2 and 6, then 6, then nothing; second: 4, 3
    assert advantages.tolist() == pytest.approx([4.0, 0, 6.0, 0, 3.0, 0, 0])
