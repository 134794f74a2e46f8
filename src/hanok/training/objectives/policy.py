"""What all policy-gradient losses share: their result, ratios, estimators of divergence. N tokens, B sequences.

A policy loss has the signature

    loss(logp_N, old_logp_N, advantage_N, mask_N, cu_seqlens, *, <denominators of the step>, ...) -> PolicyLoss

logp_N: log-probabilities of the sampled tokens under the policy that learns; old_logp_N: under the policy as it was
when the batch was made; mask_N bool: tokens that the policy itself wrote (not the prompt, not a tool's answer).
On the first update after a roll-out both are equal: the ratio is 1, the value is no more than the mean advantage
(0 in a group), and the gradient is the policy gradient all the same. Watch reward, entropy and divergence, not the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hanok.training.objectives.ragged import mean_sequences, spread

Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """One micro-batch's part of a step.

    Args:
        objective: what to differentiate; add those of a step's micro-batches.
        metrics: name -> detached sum over the counted tokens.
        tokens: how many tokens count.
        weight_N: what each token counts in the objective, for terms that are added to it.
    """

    objective: Tensor
    metrics: dict[str, Tensor]
    tokens: Tensor
    weight_N: Tensor


def weighted(
    loss_N: Tensor,
    weight_N: Tensor,
    mask_N: Tensor,
    metrics_N: dict[str, Tensor],
    importance_N: Tensor | None,
) -> PolicyLoss:
    """Sum of weight x importance x loss over the masked tokens."""
    if importance_N is not None:
        loss_N = loss_N * importance_N.detach()
        metrics_N = {**metrics_N, "importance": importance_N}
    sums = {name: values.detach().where(mask_N, 0).sum() for name, values in metrics_N.items()}
    weight_N = weight_N.to(loss_N.dtype)
    return PolicyLoss((loss_N.where(mask_N, 0) * weight_N).sum(), sums, mask_N.sum(), weight_N)


def log_ratio(logp_N: Tensor, old_logp_N: Tensor, mask_N: Tensor) -> Tensor:
    """log pi / pi_old where masked, 0 elsewhere (so that nothing there can overflow)."""
    return (logp_N - old_logp_N.detach()).where(mask_N, 0)


def sequence_log_ratio(log_ratio_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The mean log-ratio of its sequence at every token [N]."""
    return spread(mean_sequences(log_ratio_N, mask_N, cu_seqlens), cu_seqlens)


def clipped(
    ratio_N: Tensor, advantage_N: Tensor, *, low: float, high: float, cap: float | None = None
) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A): a step is not paid for leaving the trusted range.

    Args:
        cap: upper bound of the ratio outside the clip too, for A < 0 (arXiv 1912.09729, dual clip).
    """
    bounded_N = ratio_N.clamp(1 - low, 1 + high)
    free_N = ratio_N if cap is None else ratio_N.clamp(max=cap)
    return -torch.minimum(free_N * advantage_N, bounded_N * advantage_N)


def ratio_metrics(log_ratio_N: Tensor, advantage_N: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """`ratio`, drift from the old policy (k3), and the shares whose gradient the clip removes."""
    ratio_N = log_ratio_N.exp()
    return {
        "ratio": ratio_N,
        "old_kl": ratio_N - 1 - log_ratio_N,
        "clipped_low": ((ratio_N < 1 - low) & (advantage_N < 0)).to(ratio_N.dtype),
        "clipped_high": ((ratio_N > 1 + high) & (advantage_N > 0)).to(ratio_N.dtype),
    }


def kl_estimate(logp_N: Tensor, ref_logp_N: Tensor, estimator: Estimator) -> Tensor:
    """KL(policy || reference) from one sampled token each (Schulman, "Approximating KL divergence").

    With x = ref_logp - logp: k1 = -x (unbiased), k2 = x^2 / 2, k3 = e^x - x - 1 (unbiased and never negative).
    As a value to subtract from rewards use k1 or k3, detached. As a loss to differentiate use k2, whose gradient is
    the divergence's own on-policy, or k3; k1's gradient is zero on average.
    """
    x_N = ref_logp_N - logp_N
    if estimator == "k1":
        return -x_N
    return x_N.square() / 2 if estimator == "k2" else x_N.expm1() - x_N


def add_reference_kl(
    loss: PolicyLoss, logp_N: Tensor, ref_logp_N: Tensor, mask_N: Tensor, *, beta: float, estimator: Estimator = "k3"
) -> PolicyLoss:  # fmt: skip
    """The loss with beta x estimated divergence from the reference, weighted as its tokens are."""
    kl_N = kl_estimate(logp_N.where(mask_N, 0), ref_logp_N.detach().where(mask_N, 0), estimator)
    metrics = {**loss.metrics, "reference_kl": kl_N.detach().sum()}
    return replace(loss, objective=loss.objective + beta * (loss.weight_N * kl_N).sum(), metrics=metrics)


def add_entropy_bonus(
    loss: PolicyLoss, entropy_N: Tensor, mask_N: Tensor, *, coefficient: float
) -> PolicyLoss:
    """The loss minus coefficient x entropy, weighted as its tokens are."""
    entropy_N = entropy_N.where(mask_N, 0)
    metrics = {**loss.metrics, "entropy": entropy_N.detach().sum()}
    return replace(
        loss, objective=loss.objective - coefficient * (loss.weight_N * entropy_N).sum(), metrics=metrics
    )


def adapted_kl_weight(
    beta: float, kl: float, *, target: float, sequences: int, horizon: float, bound: float = 0.2
) -> float:
    """The weight of the divergence for the next step: up while it is above its target, down while below.

    beta (1 + clip(kl / target - 1, -bound, bound) sequences / horizon)      (arXiv 1909.08593)
    """
    error = min(max(kl / target - 1, -bound), bound)
    return beta * (1 + error * sequences / horizon)
