"""The next-token objective, for pre-training and supervised fine-tuning alike: which tokens count is the batch's mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hanok.models.decoder import Decoder
from hanok.training.objective import Loss
from hanok.training.objectives.cross_entropy import linear_cross_entropy, linear_nll
from hanok.training.packing import PackedSequence, RaggedBatch, pack


@dataclass(frozen=True, kw_only=True, slots=True)
class NextToken:
    """The objective that the loop runs.

    Args:
        dtype: of the head's products. mtp_weight: of the loss of tokens further ahead.
        validation: metrics of the decoder on held-out data; None if `stopped()` became true.
    """

    dtype: torch.dtype
    mtp_weight: float
    validation: Callable[[Decoder, Callable[[], bool]], dict[str, float] | None] = lambda _, __: {}
    heads: Mapping[str, nn.Module] = field(default_factory=dict)

    def begin_step(self, decoder: Decoder, examples: Sequence[PackedSequence]) -> int:
        """Learnt tokens."""
        return sum(int(sequence.mask.sum()) for sequence in examples)

    def loss(self, decoder: Decoder, examples: Sequence[PackedSequence], *, units: int) -> Loss:
        batch = pack(examples)
        return next_token_loss(
            decoder, batch, step_tokens=units, dtype=self.dtype, mtp_weight=self.mtp_weight
        )

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return self.validation(decoder, stopped)


def next_token_loss(
    decoder: Decoder, batch: RaggedBatch, *, step_tokens: int, dtype: torch.dtype, mtp_weight: float
) -> Loss:
    """Loss of one micro-batch as its part of a step's mean.

    Args:
        step_tokens: learnt tokens of the whole step, so that the micro-batches of a step add up to its mean.
        dtype: of the head's products.
    """
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    nats = _summed_loss(decoder, hidden_ND, batch.targets_N, batch.loss_mask_N, dtype)
    objective = nats / step_tokens
    if mtp_weight:
        for depth in range(len(decoder.mtp)):
            hidden_ND = decoder.future_hidden(hidden_ND, batch.ids_N, batch.cu_seqlens, depth)
            targets_N, mask_N = _further_ahead(batch, depth + 1)
            future = _summed_loss(decoder, hidden_ND, targets_N, mask_N, dtype)
            objective = objective + future * (mtp_weight / (step_tokens * len(decoder.mtp)))
    if (auxiliary := decoder.aux_loss()) is not None:
        objective = objective + auxiliary * (int(batch.loss_mask_N.sum()) / step_tokens)
    return Loss(objective, nats.detach())


def _summed_loss(
    decoder: Decoder, hidden_ND: Tensor, targets_N: Tensor, mask_N: Tensor, dtype: torch.dtype
) -> Tensor:
    if not bool(mask_N.all()):
        learnt = mask_N.nonzero()[:, 0]
        hidden_ND, targets_N = hidden_ND.index_select(0, learnt), targets_N[learnt]
    softcap = decoder.config.logit_softcap
    return linear_cross_entropy(hidden_ND, decoder.head_weight, targets_N, dtype=dtype, softcap=softcap)


def _further_ahead(batch: RaggedBatch, distance: int) -> tuple[Tensor, Tensor]:
    """Targets `distance` further on, and which positions have one within their sequence that is learnt."""
    lengths = batch.cu_seqlens.diff().long()
    ends_N = batch.cu_seqlens[1:].long().repeat_interleave(lengths)
    inside_N = torch.arange(len(ends_N)) + distance < ends_N
    return batch.targets_N.roll(-distance), batch.loss_mask_N.roll(-distance) & inside_N


@torch.no_grad()
def token_nats(decoder: Decoder, batch: RaggedBatch) -> Tensor:
    """Negative log-likelihood in nats of every target, float32 [N]; the head in float32."""
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    return linear_nll(hidden_ND, decoder.head_weight, batch.targets_N, softcap=decoder.config.logit_softcap)
