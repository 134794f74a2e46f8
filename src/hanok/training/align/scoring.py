"""Log-probabilities of answers under a decoder, for policies and references alike. M answer tokens, B sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from hanok.models.decoder import Decoder
from hanok.models.lora import activate, adapter_names
from hanok.training.objectives.logprobs import linear_logprobs
from hanok.training.objectives.ragged import sum_sequences
from hanok.training.packing import PackedSequence, micro_batches, pack


@dataclass(frozen=True, slots=True)
class AnswerLogprobs:
    """Of the masked tokens of a batch alone, one sequence behind the other.

    Args:
        logp_M: differentiable. entropy_M: of the law at each of them. hidden_MD: what the head read there.
        cu_answers: int64 [B+1], where each sequence's answer tokens begin.
    """

    logp_M: Tensor
    entropy_M: Tensor
    hidden_MD: Tensor
    cu_answers: Tensor

    @property
    def tokens_B(self) -> Tensor:
        return self.cu_answers.diff()

    @property
    def summed_B(self) -> Tensor:
        return sum_sequences(self.logp_M, torch.ones_like(self.logp_M, dtype=torch.bool), self.cu_answers)


def answer_logprobs(
    decoder: Decoder, sequences: Sequence[PackedSequence], *, dtype: torch.dtype, temperature: float = 1.0
) -> AnswerLogprobs:
    """Args: temperature: of the law that the answers were drawn from."""
    batch = pack(sequences)
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    answers = batch.loss_mask_N.nonzero()[:, 0]
    hidden_MD = hidden_ND.index_select(0, answers)
    logp_M, entropy_M = linear_logprobs(
        hidden_MD, decoder.head_weight, batch.targets_N[answers], dtype=dtype,
        softcap=decoder.config.logit_softcap, temperature=temperature,
    )  # fmt: skip
    counts = torch.tensor([0, *(int(sequence.mask.sum()) for sequence in sequences)])
    return AnswerLogprobs(logp_M, entropy_M, hidden_MD, counts.cumsum(0))


def balanced(objective: Tensor, decoder: Decoder, *, share: float) -> Tensor:
    """With the balance loss of routers of experts, if there are any. `share`: of the step that the micro-batch is."""
    auxiliary = decoder.aux_loss()
    return objective if auxiliary is None else objective + auxiliary * share


@torch.no_grad()
def summed_logprobs(
    decoder: Decoder, sequences: Sequence[PackedSequence], *, dtype: torch.dtype, max_tokens: int,
    told: Callable[[int], None] = lambda _: None,
) -> list[float]:  # fmt: skip
    """Of each sequence's answer, without gradients. `told`: of tokens done, now and then."""
    found: list[float] = []
    with evaluating(decoder):
        for group in micro_batches(sequences, max_tokens=max_tokens):
            found += answer_logprobs(decoder, group, dtype=dtype).summed_B.tolist()
            told(sum(sequence.num_tokens for sequence in group))
    return found


@contextmanager
def evaluating(decoder: Decoder) -> Iterator[None]:
    """Dropout off."""
    was = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(was)


@contextmanager
def adapters_off(decoder: Decoder) -> Iterator[None]:
    """The model as it was before its adapters."""
    names = adapter_names(decoder)
    assert names, "nothing to switch off"
    activate(decoder, [])
    try:
        yield
    finally:
        activate(decoder, names)
