"""Odds ratio preference optimisation: supervised learning and preference in one, without a reference. P pairs.

Hong et al., arXiv 2403.07691, equations 6 and 7; m is the mean log-probability a token, so odds = e^m / (1 - e^m):

    loss = -m_chosen - beta log sigmoid(log odds(chosen) - log odds(rejected))
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hanok.training.objectives.numerics import log1mexp
from hanok.training.objectives.preference import PreferenceLoss, with_rewards

_NEVER_CERTAIN = -1e-6  # a mean log-probability of exactly zero has infinite odds


def orpo_loss(chosen_mean_P: Tensor, rejected_mean_P: Tensor, *, beta: float = 0.1) -> PreferenceLoss:
    """One loss a pair. Inputs are mean log-probabilities a completion token; above -1e-6 they count as -1e-6."""
    odds_P = log_odds_ratio(chosen_mean_P, rejected_mean_P)
    result = with_rewards(
        -chosen_mean_P - beta * F.logsigmoid(odds_P), beta * chosen_mean_P, beta * rejected_mean_P
    )
    result.metrics["log_odds"] = odds_P.detach()
    return result


def log_odds_ratio(chosen_mean_P: Tensor, rejected_mean_P: Tensor) -> Tensor:
    chosen_P, rejected_P = chosen_mean_P.clamp(max=_NEVER_CERTAIN), rejected_mean_P.clamp(max=_NEVER_CERTAIN)
    return (chosen_P - rejected_P) - (log1mexp(chosen_P) - log1mexp(rejected_P))
