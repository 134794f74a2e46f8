"""What decoding heads learn from: (frozen decoder, sequences) to a loss whose gradient reaches the heads alone.

M learnt tokens, C tokens of a chunk, D width, V vocabulary. Logits exist for one chunk at a time: the losses of a chunk
are differentiated down to its temperatures and nuclei at once, and what reaches the heads later is two numbers a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hanok.models.decoder import Decoder
from hanok.models.decoding import DecodingHeads
from hanok.training.objective import Loss
from hanok.training.objectives.autodeco import autodeco_loss, keep_hard_tokens
from hanok.training.packing import PackedSequence, RaggedBatch, micro_batches, pack
from hanok.training.validation import HeldOut

_CHUNK_NUMBERS = 1 << 22  # logits in memory at once


@dataclass(frozen=True, slots=True)
class Answers:
    """The learnt tokens of a batch: hidden_MD behind which each was chosen, targets_M, cu_answers of the sequences."""

    hidden_MD: Tensor
    targets_M: Tensor
    cu_answers: Tensor


@torch.no_grad()
def read_answers(decoder: Decoder, batch: RaggedBatch) -> Answers:
    """Hidden vectors in evaluation mode, whatever mode the loop has set: nothing of the decoder may move."""
    was = decoder.training
    decoder.eval()
    try:
        hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    finally:
        decoder.train(was)
    before_N = torch.nn.functional.pad(batch.loss_mask_N.long().cumsum(0), (1, 0))
    learnt = batch.loss_mask_N.nonzero()[:, 0]
    return Answers(hidden_ND[learnt], batch.targets_N[learnt], before_N[batch.cu_seqlens.long()])


@dataclass(frozen=True, slots=True)
class Predicted:
    """`objective` is differentiable in the heads; temperature_M and top_p_M too; metrics are sums over the tokens."""

    objective: Tensor
    temperature_M: Tensor
    top_p_M: Tensor
    metrics: Mapping[str, float]


def decoding_loss(
    decoder: Decoder,
    heads: DecodingHeads,
    answers: Answers,
    *,
    step_tokens: int,
    alpha: float,
    drop: float,
    weighed: bool,
) -> Predicted:
    """AutoDeco's loss of these tokens, as their part of the step's mean.

    Args:
        drop: share of easy tokens left out, drawn from torch's own generator, whose state checkpoints keep.
    """
    temperature_M = heads.temperature(answers.hidden_MD)
    rows = max(1, _CHUNK_NUMBERS // decoder.config.vocab_size)
    top_ps, slopes, value, sums = [], [], 0.0, dict[str, float]()
    for hidden_CD, temperature_C, targets_C in zip(
        answers.hidden_MD.split(rows), temperature_M.split(rows), answers.targets_M.split(rows), strict=True
    ):
        with torch.no_grad():
            logits_CV = decoder.logits(hidden_CD)
        top_p_C = heads.top_p(hidden_CD, temperature_C, logits_CV)
        keep_C = torch.ones_like(targets_C, dtype=torch.bool)
        if drop:
            keep_C = keep_hard_tokens(logits_CV, targets_C, torch.default_generator, drop=drop)
        leaf_T, leaf_P = (x.detach().requires_grad_() for x in (temperature_C, top_p_C))
        with torch.enable_grad():
            loss = autodeco_loss(
                logits_CV, targets_C, leaf_T, leaf_P, torch.ones_like(keep_C), keep_C, step_tokens=step_tokens,
                alpha=alpha, weighed=weighed,
            )  # fmt: skip
        slopes.append(torch.stack(torch.autograd.grad(loss.objective, (leaf_T, leaf_P))))
        top_ps.append(top_p_C)
        value += float(loss.objective.detach())
        for name, total in loss.metrics.items():
            sums[name] = sums.get(name, 0.0) + float(total)
    top_p_M = torch.cat(top_ps)
    slope_T, slope_P = torch.cat(slopes, dim=1)
    linear = ((temperature_M - temperature_M.detach()) * slope_T).sum() + (
        (top_p_M - top_p_M.detach()) * slope_P
    ).sum()  # zero, with the gradient of the loss
    return Predicted(value + linear, temperature_M, top_p_M, sums)


@dataclass(kw_only=True, slots=True)
class LearnedDecoding:
    """The objective that the loop runs; the decoder takes no gradient."""

    module: DecodingHeads
    alpha: float
    easy_drop: float
    weighed: bool = True
    held_out: Sequence[HeldOut] = ()
    max_tokens: int = 8192

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        return {"decoding": self.module}

    def begin_step(self, decoder: Decoder, examples: Sequence[PackedSequence]) -> int:
        """Learnt tokens."""
        return sum(int(sequence.mask.sum()) for sequence in examples)

    def loss(self, decoder: Decoder, examples: Sequence[PackedSequence], *, units: int) -> Loss:
        answers = read_answers(decoder, pack(examples))
        count = len(answers.targets_M)
        if not count:
            nothing = sum(parameter.sum() for parameter in self.module.parameters()) * 0.0
            assert isinstance(nothing, Tensor)
            return Loss(nothing, nothing.detach())
        found = decoding_loss(
            decoder, self.module, answers, step_tokens=units, alpha=self.alpha, drop=self.easy_drop,
            weighed=self.weighed,
        )  # fmt: skip
        metrics = {f"decoding.{name}": (total, float(count)) for name, total in found.metrics.items()}
        return Loss(found.objective, found.objective.detach() * units, metrics)

    @torch.no_grad()
    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """The loss without dropping, and mean predictions."""
        metrics: dict[str, float] = {}
        for data in self.held_out:
            total, sums, count = 0.0, dict[str, float](), 0
            for group in micro_batches(data.sequences, max_tokens=self.max_tokens):
                if stopped():
                    return None
                answers = read_answers(decoder, pack(group))
                if not len(answers.targets_M):
                    continue
                found = decoding_loss(
                    decoder,
                    self.module,
                    answers,
                    step_tokens=1,
                    alpha=self.alpha,
                    drop=0.0,
                    weighed=self.weighed,
                )
                total += float(found.objective)
                count += len(answers.targets_M)
                for name in ("temperature", "top_p"):
                    sums[name] = sums.get(name, 0.0) + found.metrics[name]
            kind = data.name.removesuffix("-validation")
            if count:
                metrics[f"validation.{kind}.loss"] = total / count
                metrics |= {f"validation.{kind}.{name}": value / count for name, value in sums.items()}
        return metrics
