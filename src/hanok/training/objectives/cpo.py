"""Contrastive preference optimisation: DPO with a uniform reference, held down by supervised learning. P pairs.

Xu et al., arXiv 2401.08417, equation 3:

    loss = -log sigmoid(beta (chosen - rejected)) - nll_weight * chosen / |chosen|
"""

from __future__ import annotations

from torch import Tensor

from hanok.training.objectives.dpo import smoothed_logistic
from hanok.training.objectives.preference import PreferenceLoss, with_rewards


def cpo_loss(
    chosen_P: Tensor, rejected_P: Tensor, chosen_tokens_P: Tensor, *, beta: float = 0.1, nll_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:  # fmt: skip
    """One loss a pair; log-probabilities are summed over the completion, the supervised term is a mean a token."""
    reward_chosen_P, reward_rejected_P = beta * chosen_P, beta * rejected_P
    nll_P = -chosen_P / chosen_tokens_P
    losses_P = smoothed_logistic(reward_chosen_P - reward_rejected_P, label_smoothing) + nll_weight * nll_P
    return with_rewards(losses_P, reward_chosen_P, reward_rejected_P)
