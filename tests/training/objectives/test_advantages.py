"""Advantages: numeric vectors, ragged sequences, and exact zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hanok.training.objectives.advantages import (
    gae,
    group_advantages,
    informative,
    leave_one_out,
    penalised_rewards,
    whiten,
)

REWARDS = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0], dtype=torch.float64)
ONE_GROUP = torch.zeros(8, dtype=torch.int64)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive_gae(
    values: list[float], rewards: list[float], gamma: float, lam: float, after: float
) -> list[float]:
    advantages, running, following = [], 0.0, after
    for value, reward in zip(reversed(values), reversed(rewards), strict=True):
        running = reward + gamma * following - value + gamma * lam * running
        following = value
        advantages.insert(0, running)
    return advantages


def test_gae_vector() -> None:
    advantages, returns = gae(numbers(0.2, 0.3, 0.5), numbers(-0.01, -0.02, 1), torch.tensor([0, 3]))
    assert advantages.tolist() == pytest.approx([0.71225, 0.655, 0.5], abs=1e-9)
    assert returns.tolist() == pytest.approx([0.91225, 0.955, 1.0], abs=1e-9)
    white = whiten(advantages, torch.ones(3, dtype=torch.bool))
    assert white.tolist() == pytest.approx([1.00192, 0.36340, -1.36532], abs=5e-6)


@pytest.mark.parametrize("lengths", [[3], [1, 5, 2], [0, 4, 0, 1], [7, 7]])
def test_gae_over_ragged_sequences(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    values = torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
    rewards = torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
    after = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    ours, returns = gae(values, rewards, cu_seqlens, gamma=0.9, lam=0.8, bootstrap_B=after)
    expected = []
    for i, length in enumerate(lengths):
        part = slice(int(cu_seqlens[i]), int(cu_seqlens[i]) + length)
        expected += naive_gae(values[part].tolist(), rewards[part].tolist(), 0.9, 0.8, float(after[i]))
    assert ours.tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(returns, ours + values)


def test_gae_steps_over_what_the_policy_did_not_write() -> None:
    mask = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0, 1], dtype=torch.bool)
    values, rewards = torch.randn(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    values[~mask] = torch.nan
    ours, returns = gae(values, rewards, torch.tensor([0, 7, 9]), mask_N=mask)
    dense, _ = gae(values[mask], rewards[mask], torch.tensor([0, 3, 4]))
    assert torch.equal(ours[mask], dense)
    assert torch.equal(ours[~mask], torch.zeros(5, dtype=torch.float64))
    assert torch.equal(returns[mask], dense + values[mask])


def test_penalised_rewards_put_the_score_on_the_last_action() -> None:
    mask = torch.tensor([0, 1, 1, 0, 0, 0, 1], dtype=torch.bool)
    logp, ref = torch.full((7,), -1.0), torch.full((7,), -1.3)
    rewards = penalised_rewards(
        torch.tensor([2.0, 9.0, -1.0]), logp, ref, mask, torch.tensor([0, 4, 5, 7]), beta=0.1
    )
    assert rewards.tolist() == pytest.approx([0, -0.03, 2 - 0.03, 0, 0, 0, -1 - 0.03])


def test_group_vectors() -> None:
    grpo = group_advantages(REWARDS, ONE_GROUP)
    assert grpo.unique().tolist() == pytest.approx([-0.72443, 1.20738], abs=5e-6)
    assert group_advantages(REWARDS, ONE_GROUP, scale="none").unique().tolist() == pytest.approx(
        [-0.375, 0.625]
    )
    assert leave_one_out(REWARDS, ONE_GROUP).unique().tolist() == pytest.approx([-3 / 7, 5 / 7])


def test_groups_may_be_mixed_and_numbered_anyhow() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    rewards = torch.rand(12, dtype=torch.float64)
    groups = torch.tensor([7] * 4 + [-3] * 4 + [100] * 4)
    alone = torch.cat([group_advantages(rewards[i : i + 4], groups[i : i + 4]) for i in (0, 4, 8)])
    assert torch.allclose(group_advantages(rewards[order], groups[order]), alone[order])


def test_equal_rewards_give_exactly_zero() -> None:
    rewards = torch.tensor([0.7] * 7 + [0.7, 0.2, 0.7], dtype=torch.float32)
    groups = torch.tensor([0] * 7 + [1] * 3)
    assert float((rewards[:7] - rewards[:7].mean()).abs().max()) > 0  # rounding alone would not be zero
    for advantages in (
        group_advantages(rewards, groups),
        group_advantages(rewards, groups, scale="batch"),
        group_advantages(rewards, groups, scale="none"),
        leave_one_out(rewards, groups),
    ):
        assert torch.equal(advantages[:7], torch.zeros(7))
        assert (advantages[7:] != 0).all()
    assert informative(rewards, groups).tolist() == [False] * 7 + [True] * 3


def test_unjudged_answers_are_left_out() -> None:
    rewards = torch.tensor([1.0, torch.nan, 0.0, torch.nan, torch.nan])
    groups = torch.tensor([0, 0, 0, 1, 1])
    advantages = group_advantages(rewards, groups, scale="none")
    assert advantages.tolist() == [0.5, 0, -0.5, 0, 0]
    assert leave_one_out(rewards, groups).tolist() == [1.0, 0, -1.0, 0, 0]
    assert informative(rewards, groups).tolist() == [True, False, True, False, False]


def test_batch_scale_is_the_deviation_of_all_centred_rewards() -> None:
    rewards, groups = numbers(1, 0, 5, 1), torch.tensor([0, 0, 1, 1])
    centred = numbers(0.5, -0.5, 2, -2)
    expected = centred / (centred.std() + 1e-4)
    assert torch.allclose(group_advantages(rewards, groups, scale="batch"), expected)


def test_whitening_without_the_shift_keeps_the_mean() -> None:
    values = torch.tensor([1.0, 2.0, 6.0, 100.0])
    mask = torch.tensor([True, True, True, False])
    white = whiten(values, mask, shift_mean=False)
    assert float(white[mask].mean()) == pytest.approx(3.0)
    assert float(white[mask].var(correction=0)) == pytest.approx(1.0)
    assert float(white[3]) == 0
    assert torch.equal(whiten(values, torch.zeros(4, dtype=torch.bool)), torch.zeros(4))
