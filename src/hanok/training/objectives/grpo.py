"""Group-relative policy optimisation and the three that differ by what they average. N tokens, B sequences.

    loss       ratio of   clip          mean over                         source
    grpo       a token    0.2 / 0.2     sequences of means over tokens    arXiv 2402.03300, equation 3
    dr_grpo    a token    0.2 / 0.2     sequences, over a constant        arXiv 2503.20783
    dapo       a token    0.2 / 0.28    tokens of the step                arXiv 2503.14476, equation 8
    gspo       a sequence 3e-4 / 4e-4   sequences                         arXiv 2507.18071, equations 5 and 7

Advantages come from `advantages.group_advantages`: divided by the standard deviation for grpo, dapo and gspo, not for
dr_grpo. dapo also draws groups again whose rewards are all equal (`advantages.informative`) and shapes the reward of
overlong answers (`rewards.shape.overlong`).
"""

from __future__ import annotations

from torch import Tensor

from hanok.training.objectives.policy import (
    PolicyLoss,
    clipped,
    log_ratio,
    ratio_metrics,
    sequence_log_ratio,
    weighted,
)
from hanok.training.objectives.ragged import (
    constant_weights,
    count_sequences,
    sequence_weights,
    token_weights,
    unit_weights,
)


def grpo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_sequences: int, clip_low: float = 0.2, clip_high: float = 0.2, ratio_cap: float | None = None,
    importance_N: Tensor | None = None, unit_tokens_B: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Every answer counts alike, whatever its length.

    Args:
        unit_tokens_B: where an answer was written in several sequences (Delethink's chunks of one trace,
            arXiv 2510.06557): for each sequence the masked tokens of its whole answer, and
            `step_sequences` counts answers. None: each sequence is an answer.
    """
    lengths_B = count_sequences(mask_N, cu_seqlens) if unit_tokens_B is None else unit_tokens_B
    weight_N = unit_weights(mask_N, cu_seqlens, lengths_B, step_units=step_sequences)
    log_ratio_N = log_ratio(logp_N, old_logp_N, mask_N)
    return _clipped_loss(
        log_ratio_N, advantage_N, mask_N, weight_N, clip_low, clip_high, ratio_cap, importance_N
    )


def dr_grpo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_sequences: int, max_tokens: int, clip_low: float = 0.2, clip_high: float = 0.2,
    ratio_cap: float | None = None, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Sum over each answer over the longest allowed length `max_tokens`."""
    weight_N = constant_weights(mask_N, constant=max_tokens, step_sequences=step_sequences)
    log_ratio_N = log_ratio(logp_N, old_logp_N, mask_N)
    return _clipped_loss(
        log_ratio_N, advantage_N, mask_N, weight_N, clip_low, clip_high, ratio_cap, importance_N
    )


def dapo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_tokens: int, clip_low: float = 0.2, clip_high: float = 0.28, ratio_cap: float | None = None,
    importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Every token counts alike; the wider upper bound lets unlikely tokens grow."""
    weight_N = token_weights(mask_N, step_tokens=step_tokens)
    log_ratio_N = log_ratio(logp_N, old_logp_N, mask_N)
    return _clipped_loss(
        log_ratio_N, advantage_N, mask_N, weight_N, clip_low, clip_high, ratio_cap, importance_N
    )


def gspo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_sequences: int, clip_low: float = 3e-4, clip_high: float = 4e-4, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """The ratio is exp of the answer's mean log-ratio, so a whole answer is clipped or kept."""
    weight_N = sequence_weights(mask_N, cu_seqlens, step_sequences=step_sequences)
    log_ratio_N = sequence_log_ratio(log_ratio(logp_N, old_logp_N, mask_N), mask_N, cu_seqlens)
    return _clipped_loss(log_ratio_N, advantage_N, mask_N, weight_N, clip_low, clip_high, None, importance_N)


def _clipped_loss(
    log_ratio_N: Tensor, advantage_N: Tensor, mask_N: Tensor, weight_N: Tensor, low: float, high: float,
    cap: float | None, importance_N: Tensor | None,
) -> PolicyLoss:  # fmt: skip
    loss_N = clipped(log_ratio_N.exp(), advantage_N, low=low, high=high, cap=cap)
    return weighted(
        loss_N, weight_N, mask_N, ratio_metrics(log_ratio_N, advantage_N, low, high), importance_N
    )
