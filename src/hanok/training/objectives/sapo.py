"""Soft adaptive policy optimisation: a smooth gate on the ratio in place of the clip. N tokens, B sequences.

    -(4 / t) sigmoid(t (rho - 1)) A,   t = t_positive where A > 0, else t_negative

Gao et al., arXiv 2511.20347. At rho = 1 value and slope equal the plain policy gradient's up to a constant; a
larger t for negative advantages lets go of bad tokens sooner, because pushing them down raises many others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanok.training.objectives.policy import PolicyLoss, log_ratio, ratio_metrics, weighted
from hanok.training.objectives.ragged import sequence_weights


def sapo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_sequences: int, t_positive: float = 1.0, t_negative: float = 1.05, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Mean over sequences of means over tokens. The clip metrics are zero: nothing is clipped."""
    log_ratio_N = log_ratio(logp_N, old_logp_N, mask_N)
    heat_N = torch.full_like(logp_N, t_negative).masked_fill(advantage_N > 0, t_positive)
    loss_N = -4 / heat_N * (heat_N * (log_ratio_N.exp() - 1)).sigmoid() * advantage_N
    weight_N = sequence_weights(mask_N, cu_seqlens, step_sequences=step_sequences)
    metrics_N = ratio_metrics(log_ratio_N, advantage_N, 1.0, float("inf"))
    return weighted(loss_N, weight_N, mask_N, metrics_N, importance_N)
