"""Identity preference optimisation: a square instead of a logistic, so that certain labels do not push for ever.

Azar et al., arXiv 2310.12036, equation 17, on log-ratios per token (its authors' practice). P pairs.
"""

from __future__ import annotations

from torch import Tensor

from hanok.training.objectives.preference import PreferenceLoss, with_rewards


def ipo_loss(
    chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, chosen_tokens_P: Tensor,
    rejected_tokens_P: Tensor, *, beta: float = 0.1,
) -> PreferenceLoss:  # fmt: skip
    """(delta_chosen / |chosen| - delta_rejected / |rejected| - 1 / (2 beta))^2.

    Args:
        chosen_P: and the other log-probabilities: summed over the completion.
        chosen_tokens_P: completion tokens; also `rejected_tokens_P`.
    """
    chosen_P = (chosen_P - ref_chosen_P) / chosen_tokens_P
    rejected_P = (rejected_P - ref_rejected_P) / rejected_tokens_P
    losses_P = (chosen_P - rejected_P - 1 / (2 * beta)).square()
    return with_rewards(losses_P, beta * chosen_P, beta * rejected_P)
