"""Distillation's objectives over a decoder: against plain sums, and against every answer that there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import tiny_training as tiny
import torch
from torch import Tensor

from hanok.models.decoder import Decoder
from hanok.training.distil.objective import Divergent, MiniLLM, live_teacher
from hanok.training.distil.teacher import Teacher
from hanok.training.objective import Loss
from hanok.training.objectives.distillation import generalised_jsd
from hanok.training.packing import PackedSequence, pack
from hanok.training.rollouts.samples import as_sequence

PROMPT = (0, 3, 1)


def decoders(vocabulary: int, *, softcap: float | None = None) -> tuple[Decoder, Teacher]:
    """`softcap`: of the teacher's logits alone."""
    student, teacher = (
        Decoder(
            tiny.tiny_model(vocab_size=vocabulary, num_layers=layers, logit_softcap=cap),
            generator=torch.Generator().manual_seed(layers),
        )
        for layers, cap in ((2, None), (3, softcap))
    )
    with torch.no_grad():
        for decoder in (student, teacher):
            for parameter in decoder.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(8)  # so that what follows depends on what was drawn
    return student, Teacher(teacher.requires_grad_(False).eval())


def gradient(decoder: Decoder, loss: Tensor) -> Tensor:
    decoder.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None]).double()


def logits_of(decoder: Decoder, sequences: list[PackedSequence]) -> Tensor:
    batch = pack(sequences)
    hidden, _ = decoder(batch.ids_N, batch.cu_seqlens)
    return decoder.logits(hidden[batch.loss_mask_N])


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_micro_batches_add_up_to_the_mean_over_the_steps_tokens(beta: float) -> None:
    student, teacher = decoders(40)
    rng = np.random.default_rng(0)
    sequences = [as_sequence(PROMPT, rng.integers(0, 40, length).tolist()) for length in (3, 1, 7, 4)]
    objective = Divergent(divergence=live_teacher(teacher, beta=beta, temperature=0.9))
    units = objective.begin_step(student, sequences)
    assert units == 15
    losses = [objective.loss(student, part, units=units) for part in (sequences[:1], sequences[1:])]
    whole = generalised_jsd(
        logits_of(student, sequences), logits_of(teacher.decoder, sequences), beta=beta, temperature=0.9
    )
    assert sum(float(loss.total) for loss in losses) == pytest.approx(float(whole.detach().sum()), rel=1e-4)
    ours = sum((gradient(student, loss.objective) for loss in losses), torch.zeros(()))
    torch.testing.assert_close(ours, gradient(student, whole.mean()), atol=1e-5, rtol=1e-3)
    assert all(p.grad is None for p in teacher.decoder.parameters())


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_minillm_descends_the_divergence_of_whole_answers(softcap: float | None) -> None:
    """Over all answers of two tokens, weighed by how likely they are: the mean of its gradients is half (a mean over two
    tokens) the gradient of KL(student || teacher) over answers, though each sees the later token as a sample alone."""
    student, teacher = decoders(4, softcap=softcap)
    objective = MiniLLM(teacher=teacher, clip=0.2, corpus_weight=0.0, dtype=torch.float32)
    answers = [as_sequence(PROMPT, ids) for ids in product(range(4), repeat=2)]

    def summed(decoder: Decoder) -> Tensor:
        targets = torch.tensor([ids for pair in product(range(4), repeat=2) for ids in pair])
        logp = logits_of(decoder, answers).log_softmax(1).gather(1, targets[:, None])[:, 0]
        return logp.reshape(16, 2).sum(1)

    mine, theirs = summed(student), summed(teacher.decoder)
    assert float(mine.exp().sum().detach()) == pytest.approx(1, abs=1e-5)
    exact = gradient(student, (mine.exp() * (mine - theirs)).sum() / 2)
    found = torch.zeros_like(exact)
    for answer, weight in zip(answers, mine.detach().exp().tolist(), strict=True):
        loss = objective.loss(student, [answer], units=objective.begin_step(student, [answer]))
        found += weight * gradient(student, loss.objective)
    assert float(exact.norm()) > 1e-3
    assert float((found - exact).norm() / exact.norm()) < 1e-5
    without = torch.zeros_like(exact)
    reverse = Divergent(divergence=live_teacher(teacher, beta=1.0, temperature=1.0))
    for answer, weight in zip(answers, mine.detach().exp().tolist(), strict=True):
        without += weight * gradient(student, reverse.loss(student, [answer], units=2).objective)
    assert (
        float((without - exact).norm() / exact.norm()) > 1e-3
    )  # this token's part alone is another direction


def test_the_corpus_beside_minillm_has_a_mean_of_its_own() -> None:
    student, teacher = decoders(12)
    answer = as_sequence(PROMPT, (5, 6))
    ids = np.arange(9)
    corpus = PackedSequence(ids[:-1], ids[1:], np.ones(8, bool), "corpus text-train:0:0")
    parts: list[tuple[list[PackedSequence], Loss]] = []
    for weight in (0.0, 0.5):
        objective = MiniLLM(teacher=teacher, clip=0.2, corpus_weight=weight, dtype=torch.float32)
        step = [answer, corpus]
        assert objective.begin_step(student, step) == 2
        parts.append((step, objective.loss(student, step, units=2)))
    plain, both = (gradient(student, loss.objective) for _, loss in parts)
    nll = torch.nn.functional.cross_entropy(logits_of(student, [corpus]), torch.from_numpy(ids[1:]))
    torch.testing.assert_close(both - plain, 0.5 * gradient(student, nll), atol=1e-5, rtol=1e-3)
    assert parts[0][1].total == parts[1][1].total
    assert parts[1][1].metrics["minillm.corpus"][0] == pytest.approx(8 * float(nll.detach()), rel=1e-4)
