"""Log-probability of each token, and entropy of its law, from hidden vectors and the head, without the [N, V] logits.

    logits = cap(W h) / temperature        logp = logits_y - logsumexp(logits)        entropy = -sum_v p_v log p_v

N positions, D width, V vocabulary. Chunks of rows are computed on the way forward and once more on the way back, where
the gradient of each row is known. Ratios of log-probabilities decide policy gradients, so the products are float32
unless the caller says otherwise (ScaleRL, arXiv 2510.13786: the head's precision moves the asymptote).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanok.kernels.cross_entropy import softmax_cross_entropy_

_CHUNK = 512


def linear_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, dtype: torch.dtype = torch.float32,
    temperature: float = 1.0, softcap: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """log p(target) and entropy in nats, each [N], differentiable in `hidden_ND` and `weight_VD`.

    Args:
        dtype: of the products; sums are at least float32, and so are the results.
        temperature: of the law: that at which the tokens were sampled.
        softcap: logits are softcap * tanh(x / softcap) before the temperature (Gemma 2).
    """
    logp_N, entropy_N = _LinearLogprobs.apply(
        hidden_ND, weight_VD, targets_N, dtype, float(temperature), softcap
    )  # type: ignore[misc]
    return logp_N, entropy_N


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, temperature: float,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        exact = torch.promote_types(dtype, torch.float32)
        weight = weight_VD.to(dtype)
        logp_N, entropy_N = hidden_ND.new_empty(2, len(targets_N), dtype=exact)
        for start in range(0, len(targets_N), _CHUNK):
            rows = slice(start, start + _CHUNK)
            logits_NV, _ = _logits(hidden_ND[rows], weight, dtype, temperature, softcap)
            total_N = logits_NV.logsumexp(1)
            logp_N[rows] = logits_NV.gather(1, targets_N[rows, None])[:, 0] - total_N
            entropy_N[rows] = total_N - (logits_NV.softmax(1) * logits_NV).sum(1)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, entropy_N)
        ctx.law = (dtype, temperature, softcap)
        ctx.set_materialize_grads(False)
        return logp_N, entropy_N

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden_ND, weight_VD, targets_N, entropy_N = ctx.saved_tensors
        dtype, temperature, softcap = ctx.law
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        weight = weight_VD.to(dtype)
        grad_hidden = torch.zeros_like(hidden_ND) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        for start in range(0, len(targets_N), _CHUNK):
            rows = slice(start, start + _CHUNK)
            logits_NV, slope_NV = _logits(hidden_ND[rows], weight, dtype, temperature, softcap)
            parts = [None if gradient is None else gradient[rows, None] for gradient in gradients]
            grad_NV = _gradient_of_logits(logits_NV, targets_N[rows], entropy_N[rows, None], *parts)
            grad_NV /= temperature
            if slope_NV is not None:
                grad_NV *= slope_NV
            grad_NV = grad_NV.to(dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_NV @ weight
            if grad_weight is not None:
                grad_weight += grad_NV.mT @ hidden_ND[rows].to(dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VD.dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _logits(
    hidden_ND: Tensor, weight_VD: Tensor, dtype: torch.dtype, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Logits at their temperature, and the slope of the cap."""
    logits_NV = (hidden_ND.to(dtype) @ weight_VD.mT).to(torch.promote_types(dtype, torch.float32))
    if softcap is None:
        return logits_NV / temperature, None
    bent_NV = (logits_NV / softcap).tanh()
    return bent_NV * (softcap / temperature), 1 - bent_NV.square()


def _gradient_of_logits(
    logits_NV: Tensor, targets_N: Tensor, entropy_N1: Tensor, grad_logp_N1: Tensor | None,
    grad_entropy_N1: Tensor | None,
) -> Tensor:  # fmt: skip
    """d logp = onehot - p; d entropy = -p (log p + entropy). May overwrite the logits."""
    if grad_entropy_N1 is None and logits_NV.dtype == torch.float32:
        softmax_cross_entropy_(logits_NV, targets_N)  # leaves p - onehot
        return logits_NV.neg_().mul_(grad_logp_N1) if grad_logp_N1 is not None else logits_NV.zero_()
    logp_NV = logits_NV.log_softmax(1)
    p_NV = logp_NV.exp()
    gradient_NV = torch.zeros_like(logits_NV)
    if grad_logp_N1 is not None:
        gradient_NV -= p_NV * grad_logp_N1
        gradient_NV.scatter_add_(1, targets_N[:, None], grad_logp_N1.to(gradient_NV.dtype))
    if grad_entropy_N1 is not None:
        gradient_NV -= p_NV * (logp_NV + entropy_N1) * grad_entropy_N1
    return gradient_NV
