"""SimPO: the mean log-probability a token is the reward; a margin, no reference. P pairs.

Meng et al., arXiv 2405.14734, equation 6:

    loss = -log sigmoid(beta (m_chosen - m_rejected) - gamma)
"""

from __future__ import annotations

from torch import Tensor

from hanok.training.objectives.dpo import smoothed_logistic
from hanok.training.objectives.preference import PreferenceLoss, with_rewards


def simpo_loss(
    chosen_mean_P: Tensor, rejected_mean_P: Tensor, *, beta: float = 2.0, gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:  # fmt: skip
    """One loss a pair; inputs are mean log-probabilities a completion token, `gamma` is the margin in reward units."""
    chosen_P, rejected_P = beta * chosen_mean_P, beta * rejected_mean_P
    losses_P = smoothed_logistic(chosen_P - rejected_P - gamma, label_smoothing)
    return with_rewards(losses_P, chosen_P, rejected_P)
