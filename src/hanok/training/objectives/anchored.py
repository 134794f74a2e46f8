"""Losses that hold each half of a pair against the reference, not only the two against each other. P pairs.

With delta = log-ratio of policy to reference, summed over the completion; s = sigmoid:

    apo_zero   1 - s(beta dc) + s(beta dr)                             arXiv 2408.06266, equation 7
    apo_down   s(beta dc) + 1 - s(beta (dc - dr))                      arXiv 2408.06266, equation 8
    nca        -log s(beta dc) - 0.5 log s(-beta dc) - 0.5 log s(-beta dr)     arXiv 2402.05369
    bco        -log s(beta dc) - log s(-beta dr)                       arXiv 2404.04656, without the reward shift
    sppo       (dc - 1 / (2 beta))^2 + (dr + 1 / (2 beta))^2           arXiv 2405.00675, hard labels
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hanok.training.objectives.preference import PreferenceLoss, with_rewards


def apo_zero_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1
) -> PreferenceLoss:
    """For pairs whose chosen answer is better than what the model says: chosen up, rejected down."""
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    return with_rewards(1 - chosen_P.sigmoid() + rejected_P.sigmoid(), chosen_P, rejected_P)


def apo_down_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1
) -> PreferenceLoss:
    """For pairs whose chosen answer is worse than what the model says: both down, rejected further."""
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    return with_rewards(chosen_P.sigmoid() + 1 - (chosen_P - rejected_P).sigmoid(), chosen_P, rejected_P)


def nca_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1
) -> PreferenceLoss:
    """Noise contrastive alignment: the likelihood of the chosen answer itself is kept from falling."""
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    losses_P = -F.logsigmoid(chosen_P) - 0.5 * F.logsigmoid(-chosen_P) - 0.5 * F.logsigmoid(-rejected_P)
    return with_rewards(losses_P, chosen_P, rejected_P)


def bco_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1
) -> PreferenceLoss:
    """Binary classifier optimisation: is this answer a chosen or a rejected one?"""
    chosen_P, rejected_P = beta * (chosen_P - ref_chosen_P), beta * (rejected_P - ref_rejected_P)
    return with_rewards(-F.logsigmoid(chosen_P) - F.logsigmoid(-rejected_P), chosen_P, rejected_P)


def sppo_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, *, beta: float = 0.1
) -> PreferenceLoss:
    """Self-play: each log-ratio towards the half unit that a certain win or loss is worth."""
    chosen_P, rejected_P = chosen_P - ref_chosen_P, rejected_P - ref_rejected_P
    losses_P = (chosen_P - 0.5 / beta).square() + (rejected_P + 0.5 / beta).square()
    return with_rewards(losses_P, beta * chosen_P, beta * rejected_P)
