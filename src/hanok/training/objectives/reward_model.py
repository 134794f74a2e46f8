"""Losses that teach a model to give scores. P pairs, S steps of a solution.

pairs   -log sigmoid(r_chosen - r_rejected - margin) + centring (r_chosen + r_rejected)^2
        Bradley and Terry 1952; margin: Llama 2, arXiv 2307.09288, equation 2; centring: arXiv 2312.09244
steps   cross-entropy of "this step is right"       Lightman et al., arXiv 2305.20050
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.training.objectives.preference import PreferenceLoss, with_rewards


def bradley_terry_loss(
    chosen_P: Tensor, rejected_P: Tensor, *, margin_P: Tensor | None = None, centring: float = 0.0
) -> PreferenceLoss:
    """One loss a pair from the scores of its two answers.

    Args:
        margin_P: how much better the chosen answer is said to be, in score units.
        centring: keeps scores around zero, which pairs alone leave open; 0.01 is usual.
    """
    gap_P = chosen_P - rejected_P if margin_P is None else chosen_P - rejected_P - margin_P
    losses_P = -F.logsigmoid(gap_P) + centring * (chosen_P + rejected_P).square()
    return with_rewards(losses_P, chosen_P, rejected_P)


def soft_bradley_terry_loss(first_P: Tensor, second_P: Tensor, probability_P: Tensor) -> PreferenceLoss:
    """Pairs whose label is a probability that the first answer is better (RLAIF, arXiv 2309.00267).

    A labelling model leans towards a position: average its probability over both orders before it comes here.
    """
    losses_P = F.binary_cross_entropy_with_logits(
        first_P - second_P, probability_P.to(first_P.dtype), reduction="none"
    )
    return with_rewards(losses_P, first_P, second_P)


def process_reward_loss(logits_S: Tensor, labels_S: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """One loss a step, and whether each step was judged as labelled.

    Args:
        logits_S: the score at the end of each step.
        labels_S: probability that the step is right: 0 or 1, or the share of roll-outs from it that succeed.
    """
    labels_S = labels_S.to(logits_S.dtype)
    losses_S = F.binary_cross_entropy_with_logits(logits_S, labels_S, reduction="none")
    accuracy_S = ((logits_S.detach() > 0) == (labels_S > 0.5)).to(losses_S.dtype)
    return losses_S, {"accuracy": accuracy_S, "reward": torch.sigmoid(logits_S.detach())}
