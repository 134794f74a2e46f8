"""Odds ratio preference optimisation: supervised learning and preference in one, without a reference. P pairs.

Hong et al., arXiv 2403.07691, equations 6 and 7; m is the mean log-probability a token, so odds = e^m / (1 - e^m):

    loss = -m_chosen - beta log sigmoid(log odds(chosen) - log odds(rejected))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    return (chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, by whichever form loses no digits; each branch sees only inputs that it can stand."""
    near = x > -0.6931471805599453
    by_expm1 = torch.where(near, x, -1.0).expm1().neg().log()
    by_log1p = torch.where(near, -1.0, x).exp().neg().log1p()
    return torch.where(near, by_expm1, by_log1p)
