"""What all losses on preference pairs return. P pairs.

Every loss of this family is a pure function of sequence log-probabilities and gives one number a pair, so that the
caller divides by the pairs of the whole step and micro-batches add up to the step's mean:

    objective = result.losses_P.sum() / step_pairs
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """`losses_P` to differentiate; `metrics`: name -> detached numbers, one a pair (their mean is what to log)."""

    losses_P: Tensor
    metrics: dict[str, Tensor]


def with_rewards(losses_P: Tensor, reward_chosen_P: Tensor, reward_rejected_P: Tensor) -> PreferenceLoss:
    """Losses beside the implicit rewards that they push apart; a tie counts as wrong."""
    chosen_P, rejected_P = reward_chosen_P.detach(), reward_rejected_P.detach()
    metrics = {
        "reward_chosen": chosen_P,
        "reward_rejected": rejected_P,
        "margin": chosen_P - rejected_P,
        "accuracy": (chosen_P > rejected_P).to(chosen_P.dtype),
    }
    return PreferenceLoss(losses_P, metrics)
