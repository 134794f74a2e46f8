"""What a student learns from, for the loop: the teacher's law on disk, or the teacher itself.

N tokens of a micro-batch, M of them learnt, D width, V vocabulary, K kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from hanok.models.decoder import Decoder
from hanok.training.align.scoring import balanced
from hanok.training.distil.logits import StoredLogits
from hanok.training.distil.teacher import Teacher
from hanok.training.objective import Loss
from hanok.training.objectives.distillation import (
    by_rows,
    generalised_jsd,
    minillm_advantages,
    reverse_kl,
    top_k_kl,
)
from hanok.training.objectives.logprobs import linear_logprobs
from hanok.training.objectives.next_token import next_token_loss
from hanok.training.objectives.ppo import ppo_loss
from hanok.training.packing import PackedSequence, RaggedBatch, pack

Validation = Callable[[Decoder, Callable[[], bool]], dict[str, float] | None]


@dataclass(frozen=True, slots=True)
class Learnt:
    """The learnt tokens of a micro-batch. Args: rows: their places among all. cu_learnt: int64 [B+1]."""

    batch: RaggedBatch
    rows: Tensor
    hidden_MD: Tensor
    sequences: Sequence[PackedSequence]

    @property
    def cu_learnt(self) -> Tensor:
        counts = torch.tensor([0, *(int(sequence.mask.sum()) for sequence in self.sequences)])
        return counts.cumsum(0)


Divergence = Callable[[Decoder, Learnt], Tensor]


@dataclass(kw_only=True, slots=True)
class Divergent:
    """A divergence from the teacher, the mean over the learnt tokens of a step.

    Args: divergence: of each learnt token [M].
    """

    divergence: Divergence
    validation: Validation = lambda _, __: {}
    heads: Mapping[str, nn.Module] = field(default_factory=dict)

    def begin_step(self, decoder: Decoder, examples: Sequence[PackedSequence]) -> int:
        """Learnt tokens."""
        return sum(int(sequence.mask.sum()) for sequence in examples)

    def loss(self, decoder: Decoder, examples: Sequence[PackedSequence], *, units: int) -> Loss:
        learnt = read(decoder, examples)
        total = self.divergence(decoder, learnt).sum()
        objective = balanced(total / units, decoder, share=len(learnt.rows) / units)
        return Loss(objective, total.detach())

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return self.validation(decoder, stopped)


def stored_law(stored: StoredLogits, *, temperature: float) -> Divergence:
    """Forward KL over the tokens kept on disk and one bucket for the rest."""

    def divergence(decoder: Decoder, learnt: Learnt) -> Tensor:
        parts = zip(*map(stored.of, learnt.sequences), strict=True)
        ids_MK, logp_MK, rest_M = (torch.from_numpy(np.concatenate(part)) for part in parts)

        def rows(hidden_CD: Tensor, ids_CK: Tensor, logp_CK: Tensor, rest_C: Tensor) -> Tensor:
            return top_k_kl(decoder.logits(hidden_CD), ids_CK, logp_CK, rest_C, temperature=temperature)

        return by_rows(rows, learnt.hidden_MD, ids_MK, logp_MK, rest_M)

    return divergence


def live_teacher(teacher: Teacher, *, beta: float, temperature: float) -> Divergence:
    """GKD's divergence from the teacher, which reads the same tokens."""
    return partial(_from_teacher, teacher, partial(generalised_jsd, beta=beta, temperature=temperature))


def _from_teacher(
    teacher: Teacher, law: Callable[[Tensor, Tensor], Tensor], decoder: Decoder, learnt: Learnt
) -> Tensor:
    return _between(law, decoder, learnt, teacher, teacher.hidden(learnt.batch, learnt.rows))


def _between(
    law: Callable[[Tensor, Tensor], Tensor], decoder: Decoder, learnt: Learnt, teacher: Teacher, teacher_MD: Tensor
) -> Tensor:  # fmt: skip
    """A divergence of (student's logits, teacher's logits) at each learnt token [M]."""

    def rows(hidden_CD: Tensor, teacher_CD: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_CV = teacher.decoder.logits(teacher_CD)
        return law(decoder.logits(hidden_CD), teacher_CV)

    return by_rows(rows, learnt.hidden_MD, teacher_MD)


@dataclass(kw_only=True, slots=True)
class MiniLLM:
    """Reverse KL of the student's own answers (arXiv 2306.08543): this token's part exactly, what follows from it by policy
    gradient with length-normalised returns, and next-token learning on the corpus beside it.

    Examples whose names begin with `corpus` are the corpus's; all others are answers that the student has just drawn.
    """

    teacher: Teacher
    clip: float
    corpus_weight: float
    dtype: torch.dtype
    validation: Validation = lambda _, __: {}
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    corpus_tokens: int = 0

    def begin_step(self, decoder: Decoder, examples: Sequence[PackedSequence]) -> int:
        """Tokens of answers."""
        counts = [(is_corpus(one), int(one.mask.sum())) for one in examples]
        self.corpus_tokens = sum(count for corpus, count in counts if corpus)
        return sum(count for corpus, count in counts if not corpus)

    def loss(self, decoder: Decoder, examples: Sequence[PackedSequence], *, units: int) -> Loss:
        own = [one for one in examples if not is_corpus(one)]
        corpus = [one for one in examples if is_corpus(one)]
        parts = [self._own(decoder, own, units)] if own else []
        if corpus:
            learnt = next_token_loss(
                decoder, pack(corpus), step_tokens=self.corpus_tokens, dtype=self.dtype, mtp_weight=0.0
            )
            count = float(sum(int(one.mask.sum()) for one in corpus))
            parts.append(
                Loss(
                    learnt.objective * self.corpus_weight, torch.zeros(()), {"minillm.corpus": (float(learnt.total), count)}
                )
            )  # fmt: skip
        metrics = {name: value for part in parts for name, value in part.metrics.items()}
        return Loss(sum_of(part.objective for part in parts), sum_of(part.total for part in parts), metrics)

    def _own(self, decoder: Decoder, examples: Sequence[PackedSequence], units: int) -> Loss:
        learnt = read(decoder, examples)
        targets_M = learnt.batch.targets_N[learnt.rows]
        logp_M, _ = linear_logprobs(
            learnt.hidden_MD, decoder.head_weight, targets_M, dtype=self.dtype, softcap=decoder.config.logit_softcap
        )  # fmt: skip
        known, teacher_MD = self.teacher.decoder, self.teacher.hidden(learnt.batch, learnt.rows)
        with torch.no_grad():
            teacher_M, _ = linear_logprobs(
                teacher_MD, known.head_weight, targets_M, softcap=known.config.logit_softcap
            )
        mask_M, cu_learnt = torch.ones_like(targets_M, dtype=torch.bool), learnt.cu_learnt
        old_M = logp_M.detach()  # the answers were drawn with these very weights
        advantage_M = minillm_advantages(old_M, teacher_M, mask_M, cu_learnt)
        later = ppo_loss(logp_M, old_M, advantage_M, mask_M, cu_learnt, step_tokens=units, clip=self.clip)
        single = _between(reverse_kl, decoder, learnt, self.teacher, teacher_MD).sum()
        objective = balanced(later.objective + single / units, decoder, share=len(mask_M) / units)
        sampled = float((old_M - teacher_M).double().sum())
        return Loss(objective, single.detach(), {"minillm.sampled_kl": (sampled, float(len(mask_M)))})

    def validate(self, decoder: Decoder, *, stopped: Callable[[], bool]) -> dict[str, float] | None:
        return self.validation(decoder, stopped)


def read(decoder: Decoder, examples: Sequence[PackedSequence]) -> Learnt:
    batch = pack(examples)
    hidden_ND, _ = decoder(batch.ids_N, batch.cu_seqlens)
    rows = batch.loss_mask_N.nonzero()[:, 0]
    return Learnt(batch, rows, hidden_ND.index_select(0, rows), examples)


def is_corpus(example: PackedSequence) -> bool:
    return example.name.startswith("corpus ")


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(())
    for part in parts:
        total = total + part
    return total
