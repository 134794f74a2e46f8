"""Learned decoding: losses that teach two small heads a temperature and a nucleus for each token. N tokens, V vocabulary.

AutoDeco, arXiv 2510.26697. The backbone is frozen: its logits carry no gradient, only T_N in (0, 2) and P_N in (0, 1) do.

    p = softmax(logits / T)      c_j = cumulative sum of p, largest first, token j included
    m_j = exp(-alpha relu(c_j - P))                       a nucleus that can be differentiated
    p~ = p m / (sum p m + 1e-9)
    temperature term = CE(logits / T, y)     nucleus term = -log(p~_y + 1e-9)

As alpha grows the mask becomes {j: c_j <= P}: one token fewer than the nucleus of sampling, which keeps the token that
crosses P, and nothing at all where the most likely token alone is above P.

The paper trains both heads by the nucleus term; its released trainer adds the temperature term, drops easy tokens
from that term, and weighs every token by the model's confidence in it. `autodeco_loss` does as the trainer does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALL = 1e-9
_COLDEST = 1e-2


@dataclass(frozen=True, slots=True)
class DecodingLoss:
    """`objective`: this micro-batch's part of the step's mean. `metrics`: detached sums over the masked tokens."""

    objective: Tensor
    metrics: dict[str, Tensor]


def autodeco_loss(
    logits_NV: Tensor, targets_N: Tensor, temperature_N: Tensor, top_p_N: Tensor, mask_N: Tensor, keep_N: Tensor, *,
    step_tokens: int, alpha: float = 30.0, weighed: bool = True,
) -> DecodingLoss:  # fmt: skip
    """Both terms of every masked token, weighed by confidence; the temperature term of kept tokens alone.

    Args:
        keep_N: bool, from `keep_hard_tokens`.
        step_tokens: masked tokens of the whole step.
        weighed: False counts all tokens alike. Weighed by p, calibrated logits learn a law like p^2, so temperatures
            below 1 where the text is free; unweighed, they learn p itself.
    """
    # rows that do not count are left out first: sorting is what costs, and nothing there can reach the heads
    logits_NV, targets_N, keep_N = logits_NV.detach()[mask_N], targets_N[mask_N], keep_N[mask_N]
    temperature_N, top_p_N = temperature_N[mask_N], top_p_N[mask_N]
    weight_N = label_confidence(logits_NV, targets_N) if weighed else torch.ones_like(temperature_N)
    temperature_term_N = temperature_nats(logits_NV, targets_N, temperature_N)
    nucleus_term_N = nucleus_nats(logits_NV, targets_N, temperature_N, top_p_N, alpha=alpha)
    each_N = weight_N * (temperature_term_N.where(keep_N, 0) + nucleus_term_N)
    values_N = {
        "temperature": temperature_N,
        "top_p": top_p_N,
        "temperature_nats": temperature_term_N,
        "nucleus_nats": nucleus_term_N,
        "kept": keep_N.to(each_N.dtype),
    }
    sums = {name: value.detach().sum() for name, value in values_N.items()}
    return DecodingLoss(each_N.sum() / step_tokens, sums)


def temperature_nats(logits_NV: Tensor, targets_N: Tensor, temperature_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target at its temperature, at least 0.01 [N]."""
    return F.cross_entropy(
        logits_NV / temperature_N.clamp(min=_COLDEST)[:, None], targets_N, reduction="none"
    )


def nucleus_nats(
    logits_NV: Tensor, targets_N: Tensor, temperature_N: Tensor, top_p_N: Tensor, *, alpha: float = 30.0
) -> Tensor:
    """Negative log-likelihood of each target under the soft nucleus [N]; at most -log(1e-9), about 20.7 nats."""
    law_NV = soft_nucleus(logits_NV, temperature_N, top_p_N, alpha=alpha)
    return -(law_NV.gather(1, targets_N[:, None])[:, 0] + _SMALL).log()


def soft_nucleus(logits_NV: Tensor, temperature_N: Tensor, top_p_N: Tensor, *, alpha: float = 30.0) -> Tensor:
    """p~ [N, V], differentiable in both."""
    law_NV = (logits_NV / temperature_N.clamp(min=_COLDEST)[:, None]).softmax(1)
    sorted_NV, order_NV = law_NV.sort(dim=1, descending=True, stable=True)
    beyond_NV = (sorted_NV.cumsum(1) - top_p_N[:, None]).relu()
    mask_NV = torch.zeros_like(law_NV).scatter(1, order_NV, (-alpha * beyond_NV).exp())
    kept_NV = law_NV * mask_NV
    return kept_NV / (kept_NV.sum(1, keepdim=True) + _SMALL)


@torch.no_grad()
def keep_hard_tokens(
    logits_NV: Tensor, targets_N: Tensor, generator: torch.Generator, *, drop: float = 0.6
) -> Tensor:
    """Bool [N]: False for a share `drop` of the tokens that the model would have chosen anyway."""
    easy_N = logits_NV.argmax(1) == targets_N
    drawn_N = torch.rand(len(targets_N), generator=generator).to(easy_N.device) < drop
    return ~(easy_N & drawn_N)


@torch.no_grad()
def label_confidence(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The model's own probability of each target [N] (dynamic fine-tuning, arXiv 2508.05629): rare ones count little."""
    return (logits_NV.gather(1, targets_N[:, None])[:, 0] - logits_NV.logsumexp(1)).exp()


def control_ranking_loss(low_B: Tensor, plain_B: Tensor, high_B: Tensor, *, margin: float = 0.1) -> Tensor:
    """One loss a prompt: its mean temperature (or nucleus) must rise from "be predictable" to "be creative".

    relu(margin - (plain - low)) + relu(margin - (high - plain)). The paper names a ranking loss; this hinge is
    our reading of it.

    Args:
        low_B: mean prediction under an instruction that asks for little diversity; `high_B`: for much of it.
        plain_B: without such an instruction.
    """
    return F.relu(margin - (plain_B - low_B)) + F.relu(margin - (high_B - plain_B))
