"""Proximal policy optimisation: clipped policy and value losses. N tokens, B sequences.

Schulman et al., arXiv 1707.06347, equation 7; the clipped value is its authors' code, not the paper. As used for
language models in arXiv 1909.08593:

    policy   -min(rho A, clip(rho, 1 - e, 1 + e) A)                              mean over tokens
    value    1/2 max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2)           mean over tokens
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.training.objectives.policy import PolicyLoss, clipped, log_ratio, ratio_metrics, weighted
from hanok.training.objectives.ragged import token_weights


def ppo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_tokens: int, clip: float = 0.2, ratio_cap: float | None = None, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Token ratios, token mean; advantages from `advantages.gae`, whitened over the step's real tokens."""
    log_ratio_N = log_ratio(logp_N, old_logp_N, mask_N)
    loss_N = clipped(log_ratio_N.exp(), advantage_N, low=clip, high=clip, cap=ratio_cap)
    weight_N = token_weights(mask_N, step_tokens=step_tokens)
    return weighted(
        loss_N, weight_N, mask_N, ratio_metrics(log_ratio_N, advantage_N, clip, clip), importance_N
    )


def value_loss(
    values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, mask_N: Tensor, *, step_tokens: int, clip: float = 0.2
) -> PolicyLoss:  # fmt: skip
    """Half the squared error, of the clipped value where that is larger."""
    values_N, old_values_N, returns_N = (x_N.where(mask_N, 0) for x_N in (values_N, old_values_N, returns_N))
    bounded_N = torch.clamp(values_N, old_values_N - clip, old_values_N + clip)
    free_N, held_N = (values_N - returns_N).square(), (bounded_N - returns_N).square()
    metrics_N = {
        "value": values_N,
        "return": returns_N,
        "error2": free_N,
        "value_clipped": (held_N > free_N).to(values_N.dtype),
    }
    weight_N = token_weights(mask_N, step_tokens=step_tokens)
    return weighted(0.5 * torch.maximum(free_N, held_N), weight_N, mask_N, metrics_N, None)


@torch.no_grad()
def explained_variance(values_N: Tensor, returns_N: Tensor, mask_N: Tensor) -> float:
    """1 - mean squared error / variance of the returns, over the masked tokens; 0 where all returns are equal."""
    error_n, return_n = (values_N - returns_N)[mask_N].double(), returns_N[mask_N].double()
    variance = float(return_n.var(correction=0)) if len(return_n) else 0.0
    return 1 - float(error_n.square().mean()) / variance if variance > 1e-12 else 0.0
