"""CISPO: the ratio is capped and held constant, so every token keeps its gradient. N tokens, B sequences.

    -sg(min(rho, cap)) A log pi

MiniMax-M1, arXiv 2506.13585: mean over the step's tokens. ScaleRL, arXiv 2510.13786: over all tokens of a
prompt's answers, then over prompts. `cap` is the bound of the ratio itself, not of its distance from 1: 4 to 8 in
ScaleRL. (With 0.2, as if it were a clip range, every gradient would shrink fivefold.)
"""

from __future__ import annotations

from torch import Tensor

from hanok.errors import ConfigError
from hanok.training.objectives.policy import PolicyLoss, log_ratio, ratio_metrics, weighted
from hanok.training.objectives.ragged import token_weights, unit_weights


def cispo_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    step_tokens: int, cap: float = 5.0, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Mean over all tokens of the step."""
    weight_N = token_weights(mask_N, step_tokens=step_tokens)
    return _capped_loss(logp_N, old_logp_N, advantage_N, mask_N, weight_N, cap, importance_N)


def scalerl_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor, *,
    unit_tokens_B: Tensor, step_units: int, cap: float = 5.0, importance_N: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Mean over the tokens of a prompt's answers, then over prompts.

    Args:
        unit_tokens_B: for each sequence, masked tokens of all answers to its prompt, in the whole step.
        step_units: prompts of the whole step.
    """
    weight_N = unit_weights(mask_N, cu_seqlens, unit_tokens_B, step_units=step_units)
    return _capped_loss(logp_N, old_logp_N, advantage_N, mask_N, weight_N, cap, importance_N)


def _capped_loss(
    logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, mask_N: Tensor, weight_N: Tensor, cap: float,
    importance_N: Tensor | None,
) -> PolicyLoss:  # fmt: skip
    if cap < 1.0:
        raise ConfigError(f"cap = {cap}", remedy="it bounds the ratio itself: at least 1, usually 4 to 8")
    log_ratio_N = log_ratio(logp_N.detach(), old_logp_N, mask_N)
    loss_N = -log_ratio_N.exp().clamp(max=cap) * advantage_N * logp_N
    return weighted(
        loss_N, weight_N, mask_N, ratio_metrics(log_ratio_N, advantage_N, 1.0, cap - 1), importance_N
    )
