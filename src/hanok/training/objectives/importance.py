"""Corrections where the generator that wrote the tokens is not the policy that learns. N tokens, B sequences.

The same weights give slightly other probabilities in the engine than in training (kernels, precision, stale weights).
`old_logp_N` are the trainer's log-probabilities before the update, `generator_logp_N` those the engine reported.
Every function returns weights [N], without gradient, for the losses' `importance_N`. Both must be of the same law:
if the engine samples at a temperature or inside a nucleus, its log-probabilities must be those of the law before
the nucleus, at the same temperature as the trainer's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.training.objectives.ragged import mean_sequences, spread, sum_sequences


@torch.no_grad()
def truncated_importance(
    old_logp_N: Tensor, generator_logp_N: Tensor, mask_N: Tensor, *, cap: float = 2.0
) -> Tensor:
    """min(pi_old / pi_generator, cap), a token at a time; 1 outside the mask."""
    return (old_logp_N - generator_logp_N).where(mask_N, 0).exp().clamp(max=cap)


@torch.no_grad()
def sequence_masked_importance(
    old_logp_N: Tensor, generator_logp_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *, cap: float = 3.0
) -> Tensor:
    """The ratio of the whole answer at each of its tokens; 0 for an answer whose ratio is above `cap`."""
    summed_B = sum_sequences(old_logp_N - generator_logp_N, mask_N, cu_seqlens)
    ratio_B = summed_B.exp()
    return spread(ratio_B.where(ratio_B <= cap, 0), cu_seqlens)


@torch.no_grad()
def off_policy_mask(
    logp_N: Tensor, generator_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    threshold: float,
) -> Tensor:  # fmt: skip
    """0 at answers with a negative advantage from which the policy has moved away by more than `threshold` nats a token.

    (DeepSeek-V3.2, arXiv 2512.02556.) 1 elsewhere.
    """
    moved_B = mean_sequences(generator_logp_N - logp_N, mask_N, cu_seqlens)
    advantage_B = mean_sequences(advantage_N, mask_N, cu_seqlens)
    return spread(1 - ((advantage_B < 0) & (moved_B > threshold)).to(logp_N.dtype), cu_seqlens)
