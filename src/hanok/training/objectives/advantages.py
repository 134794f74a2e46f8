"""Advantages: how much better than expected. N tokens, B sequences; no gradients anywhere.

    gae                 generalised advantage estimation over ragged sequences       arXiv 1506.02438, equation 16
    group_advantages    reward minus the mean of the prompt's group (GRPO)           arXiv 2402.03300, section 4.1.2
    leave_one_out       reward minus the mean of the others of the group (RLOO)      arXiv 2402.14740

A reward of NaN marks an answer that could not be judged: it is left out of its group's mean and gets exactly 0. A group
whose rewards are all equal gets exactly 0: no rounding error is blown up by a small standard deviation.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hanok.training.objectives.policy import Estimator, kl_estimate
from hanok.training.objectives.ragged import count_sequences

Scale = Literal["group", "batch", "none"]


@torch.no_grad()
def gae(
    values_N: Tensor, rewards_N: Tensor, cu_seqlens: Tensor, *, mask_N: Tensor | None = None, gamma: float = 1.0,
    lam: float = 0.95, bootstrap_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Advantages and returns [N]: d_t = r_t + gamma V_{t+1} - V_t, A_t = d_t + gamma lam A_{t+1}, R = A + V.

    Args:
        mask_N: actions of the policy; steps in between (a tool's answer) are stepped over, and get 0.
        bootstrap_B: value after the last action of a sequence that was cut off; 0 where it ended by itself.
    """
    if mask_N is not None:
        cu_actions = torch.nn.functional.pad(count_sequences(mask_N, cu_seqlens).cumsum(0), (1, 0))
        parts = gae(
            values_N[mask_N], rewards_N[mask_N], cu_actions, gamma=gamma, lam=lam, bootstrap_B=bootstrap_B
        )
        advantages_N, returns_N = (torch.zeros_like(values_N).masked_scatter(mask_N, part) for part in parts)
        return advantages_N, returns_N
    advantages_N = torch.zeros_like(values_N)
    lengths_B, ends_B = cu_seqlens.diff().long(), cu_seqlens[1:].long()
    advantage_B = torch.zeros_like(values_N[:1]).expand(len(lengths_B)).clone()
    next_value_B = advantage_B.clone() if bootstrap_B is None else bootstrap_B.to(values_N.dtype).clone()
    for back in range(1, int(lengths_B.max()) + 1 if len(lengths_B) else 1):
        live = (lengths_B >= back).nonzero()[:, 0]
        at = ends_B[live] - back
        delta = rewards_N[at] + gamma * next_value_B[live] - values_N[at]
        advantage_B[live] = delta + gamma * lam * advantage_B[live]
        next_value_B[live] = values_N[at]
        advantages_N[at] = advantage_B[live]
    return advantages_N, advantages_N + values_N


@torch.no_grad()
def penalised_rewards(
    scores_B: Tensor, logp_N: Tensor, ref_logp_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *, beta: float,
    estimator: Estimator = "k1",
) -> Tensor:  # fmt: skip
    """Rewards a token [N] for PPO: -beta x divergence from the reference, and the answer's score at its last action.

    (arXiv 1909.08593, equation 2.) An answer without any action keeps no reward.
    """
    rewards_N = -beta * kl_estimate(logp_N, ref_logp_N, estimator).where(mask_N, 0)
    actions = mask_N.nonzero()[:, 0]
    counts_B = count_sequences(mask_N, cu_seqlens)
    some_B = counts_B > 0
    last = actions[counts_B.cumsum(0)[some_B] - 1]
    rewards_N[last] += scores_B[some_B].to(rewards_N.dtype)
    return rewards_N


@torch.no_grad()
def whiten(values_N: Tensor, mask_N: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Mean 0 and variance 1 over the masked tokens, 0 elsewhere (population variance + 1e-8).

    Args:
        shift_mean: False keeps the mean, as PPO does for rewards.
    """
    kept = values_N[mask_N]
    if not len(kept):
        return torch.zeros_like(values_N)
    mean = kept.mean()
    white_N = (values_N - mean) * (kept.var(correction=0) + 1e-8).rsqrt()
    return (white_N if shift_mean else white_N + mean).where(mask_N, 0)


@torch.no_grad()
def group_advantages(
    rewards_B: Tensor, group_B: Tensor, *, scale: Scale = "group", epsilon: float = 1e-4
) -> Tensor:
    """Reward minus its group's mean [B].

    Args:
        group_B: int64, any numbers; answers to one prompt share one.
        scale: divide by (standard deviation + epsilon) of the rewards of the "group" (n - 1, GRPO), by that of all
            centred rewards of the "batch" (ScaleRL), or by nothing ("none", Dr. GRPO).
    """
    index_B, known_B, counts_G = _groups(rewards_B, group_B)
    mean_G = _group_sum(rewards_B.where(known_B, 0), index_B, len(counts_G)) / counts_G.clamp(min=1)
    centred_B = (rewards_B - mean_G[index_B]).where(_informative(rewards_B, index_B, known_B, counts_G), 0)
    if scale == "none":
        return centred_B
    if scale == "batch":
        count = int(known_B.sum())
        return centred_B / ((centred_B.square().sum() / max(count - 1, 1)).sqrt() + epsilon)
    variance_G = _group_sum(centred_B.square(), index_B, len(counts_G)) / (counts_G - 1).clamp(min=1)
    return centred_B / (variance_G.sqrt() + epsilon)[index_B]


@torch.no_grad()
def leave_one_out(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """r_i - mean of the other rewards of its group [B]; 0 in a group of one."""
    index_B, _, counts_G = _groups(rewards_B, group_B)
    centred_B = group_advantages(rewards_B, group_B, scale="none")
    return centred_B * (counts_G / (counts_G - 1).clamp(min=1))[index_B]


@torch.no_grad()
def informative(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """Bool [B]: answers with a reward, in a group whose rewards differ. The others teach nothing (draw them again)."""
    index_B, known_B, counts_G = _groups(rewards_B, group_B)
    return _informative(rewards_B, index_B, known_B, counts_G)


def _groups(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    known_B = ~rewards_B.isnan()
    _, index_B = group_B.unique(return_inverse=True)
    groups = int(index_B.max()) + 1 if len(index_B) else 0
    return index_B, known_B, _group_sum(known_B.to(rewards_B.dtype), index_B, groups)


def _informative(rewards_B: Tensor, index_B: Tensor, known_B: Tensor, counts_G: Tensor) -> Tensor:
    nothing_G = torch.zeros_like(counts_G)
    low_G = nothing_G.scatter_reduce(
        0, index_B, rewards_B.where(known_B, torch.inf), "amin", include_self=False
    )
    high_G = nothing_G.scatter_reduce(
        0, index_B, rewards_B.where(known_B, -torch.inf), "amax", include_self=False
    )
    return known_B & (low_G < high_G)[index_B]


def _group_sum(values_B: Tensor, index_B: Tensor, groups: int) -> Tensor:
    return values_B.new_zeros(groups).index_add(0, index_B, values_B)
