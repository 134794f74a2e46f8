"""Kahneman-Tversky optimisation: single answers marked good or bad, no pairs. B sequences.

Ethayarajh et al., arXiv 2402.01306, with ratio = logp - ref_logp summed over the completion:

    good  w_good (1 - sigmoid(beta (ratio - z)))        bad  w_bad (1 - sigmoid(beta (z - ratio)))

z is the divergence of policy and reference, estimated on mismatched completions (`reference_point`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class UnpairedLoss:
    """`losses_B` to differentiate; `metrics`: name -> detached numbers, one a sequence."""

    losses_B: Tensor
    metrics: dict[str, Tensor]


def kto_loss(
    logp_B: Tensor, ref_logp_B: Tensor, desirable_B: Tensor, reference_point: Tensor, *, beta: float = 0.1,
    desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> UnpairedLoss:  # fmt: skip
    """One loss a sequence; divide their sum by the step's sequences.

    Args:
        desirable_B: bool, whether the answer was marked good.
        reference_point: z, a scalar of the whole step, not of the micro-batch.
        desirable_weight: the paper wants weight x count of good and of bad answers within a factor of 4/3.
    """
    ratio_B = logp_B - ref_logp_B
    away_B = torch.where(desirable_B, ratio_B - reference_point, reference_point - ratio_B)
    weight_B = torch.full_like(ratio_B, undesirable_weight).masked_fill(desirable_B, desirable_weight)
    losses_B = weight_B * (1 - (beta * away_B).sigmoid())
    return UnpairedLoss(losses_B, {"reward": (beta * ratio_B).detach()})


@torch.no_grad()
def reference_point(mismatched_logp_B: Tensor, mismatched_ref_logp_B: Tensor) -> Tensor:
    """z = max(0, mean log-ratio), where each prompt is followed by another prompt's completion (`mismatch`)."""
    return (mismatched_logp_B - mismatched_ref_logp_B).mean().clamp(min=0)


def mismatch(count: int) -> list[int]:
    """Whose completion follows each of `count` prompts when z is estimated: the next one's, in a ring."""
    return [(i + 1) % count for i in range(count)]
