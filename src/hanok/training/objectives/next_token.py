"""The next-token objective, for pre-training and supervised fine-tuning alike: which tokens count is the batch's mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hanok.models.decoder import Decoder
from hanok.training.objectives.cross_entropy import linear_cross_entropy, linear_nll
from hanok.training.packing import RaggedBatch


@dataclass(frozen=True, slots=True)
class Loss:
    """`nats`: sum over the learnt tokens, detached, for the log. `objective`: what to differentiate."""

    objective: Tensor
    nats: Tensor


def next_token_loss(
    decoder: Decoder, batch: RaggedBatch, *, step_tokens: int, dtype: torch.dtype, mtp_weight: float
) -> Loss:
    """Loss of one micro-batch as its part of a step's mean.

    Args:
        step_tokens: learnt tokens of the whole step, so that the micro-batches of a step add up to its mean.
        dtype: of the head's products.
    """
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    learnt = batch.loss_mask_N.nonzero()[:, 0]
    nats = linear_cross_entropy(
        hidden_ND.index_select(0, learnt), decoder.head_weight, batch.targets_N[learnt], dtype=dtype
    )
    objective = nats / step_tokens
    if (auxiliary := decoder.aux_loss()) is not None:
        objective = objective + auxiliary * (len(learnt) / step_tokens)
    return Loss(objective, nats.detach())


@torch.no_grad()
def token_nats(decoder: Decoder, batch: RaggedBatch) -> Tensor:
    """Negative log-likelihood in nats of every target, float32 [N]; the head in float32."""
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    return linear_nll(hidden_ND, decoder.head_weight, batch.targets_N)
