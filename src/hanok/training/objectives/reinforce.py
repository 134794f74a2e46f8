"""REINFORCE and leave-one-out REINFORCE. N tokens, B sequences.

    reinforce   -(1 / sequences) sum_b sum_t A_t log pi_t            Williams 1992
    rloo        -(1 / sequences) sum_b min(rho_b A_b, clip(rho_b) A_b),   rho_b = prod_t pi_t / pi_old,t

Ahmadian et al., arXiv 2402.14740: a whole answer is one action; with advantages from `advantages.leave_one_out`.
"""

from __future__ import annotations

from torch import Tensor

from hanok.training.objectives.policy import PolicyLoss, clipped, log_ratio, ratio_metrics, weighted
from hanok.training.objectives.ragged import constant_weights, count_sequences, spread, sum_sequences


def reinforce_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_sequences: int, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """The plain policy gradient; `old_logp_N` is for the metrics alone (give `importance_N` if it differs)."""
    weight_N = constant_weights(mask_N, constant=1.0, step_sequences=step_sequences)
    metrics_N = ratio_metrics(log_ratio(logp_N.detach(), old_logp_N, mask_N), advantage_N, 1.0, float("inf"))
    return weighted(-advantage_N * logp_N, weight_N, mask_N, metrics_N, importance_N)


def rloo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_sequences: int, clip: float = 0.2, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """The ratio of the whole answer, clipped; `advantage_N` is the same at all tokens of a sequence."""
    summed_B = sum_sequences(log_ratio(logp_N, old_logp_N, mask_N), mask_N, cu_seqlens)
    log_ratio_N = spread(summed_B, cu_seqlens)
    # one loss a sequence, spread over its tokens: the mean of its copies is itself
    lengths_N = spread(count_sequences(mask_N, cu_seqlens).clamp(min=1), cu_seqlens)
    loss_N = clipped(log_ratio_N.exp(), advantage_N, low=clip, high=clip) / lengths_N
    weight_N = constant_weights(mask_N, constant=1.0, step_sequences=step_sequences)
    return weighted(
        loss_N, weight_N, mask_N, ratio_metrics(log_ratio_N, advantage_N, clip, clip), importance_N
    )
