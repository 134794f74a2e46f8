"""Distillation: how far the student's law is from the teacher's, one number a token. N tokens, V vocabulary, K kept.

    forward_kl        KL(T || S)                              covers all the teacher may say
    reverse_kl        KL(S || T)                              says only what the teacher would
    generalised_jsd   beta KL(T || M) + (1 - beta) KL(S || M),  M = beta T + (1 - beta) S       GKD, arXiv 2306.13649
    top_k_kl          forward KL over K kept tokens and one bucket for the rest (teacher's law read from disk)

All return [N] in nats, without gradient for the teacher; the caller masks and divides by the tokens of the step. In
all, laws are softmax(logits / temperature); the factor temperature^2 of older practice is the caller's.

At beta 0 and 1 the divergence of GKD is defined as forward and reverse KL. It is not the limit of its own formula,
which goes to 0 at both ends: the scale jumps there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hanok.errors import ConfigError
from hanok.training.objectives.numerics import log1mexp
from hanok.training.objectives.ragged import count_sequences, spread, sum_sequences

_CHUNK = 512
_NEVER_CERTAIN = -1e-7


def forward_kl(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of laws given by logits [N]."""
    student_NV, teacher_NV = _laws(student_NV, teacher_NV, temperature)
    return _kl(teacher_NV, student_NV)


def reverse_kl(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) of laws given by logits [N]."""
    student_NV, teacher_NV = _laws(student_NV, teacher_NV, temperature)
    return _kl(student_NV, teacher_NV)


def generalised_jsd(
    student_NV: Tensor, teacher_NV: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Generalised Jensen-Shannon divergence of laws given by logits [N]; beta 0 is forward KL, 1 reverse KL."""
    if not 0.0 <= beta <= 1.0:
        raise ConfigError(f"beta = {beta}", remedy="between 0 (forward KL) and 1 (reverse KL)")
    student_NV, teacher_NV = _laws(student_NV, teacher_NV, temperature)
    if beta == 0.0:
        return _kl(teacher_NV, student_NV)
    if beta == 1.0:
        return _kl(student_NV, teacher_NV)
    weights = torch.tensor([beta, 1 - beta], dtype=student_NV.dtype, device=student_NV.device).log()
    mixture_NV = torch.logaddexp(teacher_NV + weights[0], student_NV + weights[1])
    return beta * _kl(teacher_NV, mixture_NV) + (1 - beta) * _kl(student_NV, mixture_NV)


def top_k_kl(
    student_NV: Tensor, teacher_ids_NK: Tensor, teacher_logp_NK: Tensor, teacher_rest_N: Tensor | None = None, *,
    temperature: float = 1.0,
) -> Tensor:  # fmt: skip
    """Forward KL over the kept tokens and the rest as one bucket [N]: never more than the full forward KL.

    Args:
        teacher_ids_NK: distinct ids of each row.
        teacher_logp_NK: their log-probabilities under the teacher, at the same temperature; they need not sum to one.
        teacher_rest_N: log-probability of all others together, -inf for none; None: what is missing to one, which
            rounding blurs where little is missing.
    """
    teacher_NK = teacher_logp_NK.detach().to(student_NV.dtype)
    student_NK = (student_NV / temperature).log_softmax(1).gather(1, teacher_ids_NK)
    kept_N = _kl(teacher_NK, student_NK)
    if teacher_rest_N is None:
        rest_N = (1 - teacher_NK.exp().sum(1)).clamp(min=0)
    else:
        rest_N = teacher_rest_N.detach().to(student_NV.dtype).exp()
    student_rest_N = log1mexp(student_NK.logsumexp(1).clamp(max=_NEVER_CERTAIN))
    return kept_N + torch.xlogy(rest_N, rest_N) - rest_N * student_rest_N


def by_rows(function: Callable[..., Tensor], *columns_N: Tensor) -> Tensor:
    """A function [n] of rows [n, ...] applied to some rows at a time; what it computes within is made again on the way
    back, so that logits of all rows are never held. Parameters that it uses get their gradients."""
    chunks = zip(*(column_N.split(_CHUNK) for column_N in columns_N), strict=True)
    return torch.cat(
        [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )


@torch.no_grad()
def on_policy_advantages(student_logp_N: Tensor, teacher_logp_N: Tensor, mask_N: Tensor) -> Tensor:
    """log T - log S of the tokens that the student drew: minus its expectation is KL(S || T), a token at a time.

    For `cispo_loss` or `ppo_loss`: reverse-KL distillation as reinforcement learning without a reward.
    """
    return (teacher_logp_N - student_logp_N).where(mask_N, 0)


@torch.no_grad()
def minillm_advantages(
    student_logp_N: Tensor, teacher_logp_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """Mean of log T - log S over the tokens after each one (MiniLLM, arXiv 2306.08543).

    The long part of its gradient: use it with `ppo_loss` and add `reverse_kl`, the single-step part computed exactly.
    The last token of a sequence gets 0.
    """
    gain_N = (teacher_logp_N - student_logp_N).where(mask_N, 0)
    counted_N = mask_N.to(gain_N.dtype)
    later_gain_N = _after(gain_N, mask_N, cu_seqlens)
    later_N = spread(count_sequences(mask_N, cu_seqlens), cu_seqlens) - _running(counted_N, cu_seqlens)
    return (later_gain_N / later_N.clamp(min=1)).where(mask_N & (later_N > 0), 0)


def _laws(student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (student_NV / temperature).log_softmax(1), (teacher_NV.detach() / temperature).log_softmax(1)


def _kl(logp_NV: Tensor, logq_NV: Tensor) -> Tensor:
    """sum p (log p - log q), where p = 0 counts as 0."""
    p_NV = logp_NV.exp()
    return (p_NV * (logp_NV - logq_NV)).where(p_NV > 0, 0).sum(1)


def _after(values_N: Tensor, mask_N: Tensor, cu_seqlens: Tensor) -> Tensor:
    return spread(sum_sequences(values_N, mask_N, cu_seqlens), cu_seqlens) - _running(values_N, cu_seqlens)


def _running(values_N: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Inclusive running sum that starts anew at each sequence."""
    return torch.cat([part.cumsum(0) for part in values_N.split(cu_seqlens.diff().tolist())])
