"""Direct preference optimisation and its near relatives. P pairs.

Rafailov et al., arXiv 2305.18290, equation 7. With summed completion log-probabilities of policy and reference,

    delta = (chosen - ref_chosen) - (rejected - ref_rejected)        loss = -log sigmoid(beta * delta)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hanok.errors import ConfigError
from hanok.training.objectives.preference import PreferenceLoss, with_rewards


def dpo_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:  # fmt: skip
    """-(1 - e) log sigmoid(beta delta) - e log sigmoid(-beta delta), all inputs summed log-probabilities.

    Args:
        label_smoothing: e, the share of labels believed to be flipped (conservative DPO).
    """
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    return with_rewards(smoothed_logistic(chosen_P - rejected_P, label_smoothing), chosen_P, rejected_P)


def robust_dpo_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1,
    label_smoothing: float,
) -> PreferenceLoss:  # fmt: skip
    """Unbiased under labels flipped with probability e (Chowdhury et al., arXiv 2403.00409).

    [-(1 - e) log sigmoid(beta delta) + e log sigmoid(-beta delta)] / (1 - 2 e)
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ConfigError(f"label_smoothing = {label_smoothing}", remedy="robust DPO needs 0 <= e < 0.5")
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    margin_P = chosen_P - rejected_P
    clean_P, flipped_P = -F.logsigmoid(margin_P), -F.logsigmoid(-margin_P)
    losses_P = ((1 - label_smoothing) * clean_P - label_smoothing * flipped_P) / (1 - 2 * label_smoothing)
    return with_rewards(losses_P, chosen_P, rejected_P)


def length_normalised_dpo_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, chosen_tokens_P: Tensor,
    rejected_tokens_P: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.0,
) -> PreferenceLoss:  # fmt: skip
    """`dpo_loss` on log-ratios per completion token (Tulu 3, arXiv 2411.15124). Wants a larger beta."""
    chosen_P = beta * (chosen_P - ref_chosen_P) / chosen_tokens_P
    rejected_P = beta * (rejected_P - ref_rejected_P) / rejected_tokens_P
    return with_rewards(smoothed_logistic(chosen_P - rejected_P, label_smoothing), chosen_P, rejected_P)


def hinge_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1
) -> PreferenceLoss:
    """max(0, 1 - beta delta) (SLiC with a reference, arXiv 2309.06657)."""
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    return with_rewards(F.relu(1 - (chosen_P - rejected_P)), chosen_P, rejected_P)


def smoothed_logistic(margin_P: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of "the first is better" when that label is believed with probability 1 - e."""
    return -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)
