"""The harder village's exam before and after, and how far a model has moved: what the studies of alignment share."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.evaluation.compare import compare_answers
from hanok.evaluation.config import Split, VerifyConfig
from hanok.evaluation.statistics import Change
from hanok.evaluation.verify import verify
from hanok.models.checkpoint import load_model
from hanok.training.align.examples import joined
from hanok.training.align.scoring import summed_logprobs
from hanok.training.rollouts.prompts import read_prompts

KINDS = {"arithmetic": "sums", "fact": "facts", "abstention": "abstentions"}


def exam(model: Path, shards: Path, hard: Path, out: Path, split: Split = "exam") -> Path:
    """Asked once: what lies there already is taken."""
    if not out.exists():
        verify(
            VerifyConfig(bits_tokens=20_000), model=model, shards=shards, village=hard, out=out, split=split
        )
    return out


def changes(before: Path, after: Path) -> dict[str, Change]:
    """By kind of question, with the 95 % interval of the paired bootstrap."""
    found = compare_answers(before, after)
    return {name: found[kind] for kind, name in KINDS.items()}


def points(change: Change) -> str:
    return f"{100 * change.difference:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(trained || start) of whole answers in nats, with the standard error of its mean; their tokens, the end included."""

    nats: float
    error: float
    tokens: float

    def __str__(self) -> str:
        return f"{self.nats:.3f} ± {self.error:.3f} nats in {self.tokens:.0f} tokens"


def divergence(
    start: Path, trained: Path, prompts: Path, *, answers: int = 256, longest: int = 96
) -> Divergence:
    """Of one answer at temperature 1 by the trained model to each of the first `answers` prompts of a file (k1, unbiased)."""
    engine = LocalEngine(trained, weights="bf16", max_running=64)
    known = read_prompts(prompts, engine.tokenizer, max_tokens=512)[:answers]
    found = engine.generate(
        [
            Request(
                id=str(n),
                prompt_ids=one.ids,
                params=SamplingParams(max_tokens=longest, seed=n, decoding="fixed"),
            )
            for n, one in enumerate(known)
        ]
    )
    engine.close()
    written = [(*one.ids, *(() if one.stop_id is None else (one.stop_id,))) for one in found]
    sequences = [
        joined(one.ids, ids, [True] * len(ids), one.name) for one, ids in zip(known, written, strict=True)
    ]
    ours, before = (
        summed_logprobs(
            load_model(model, dtype=torch.float32), sequences, dtype=torch.float32, max_tokens=8192
        )
        for model in (trained, start)
    )
    gaps = [a - b for a, b in zip(ours, before, strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
    return Divergence(statistics.fmean(gaps), error, statistics.fmean(map(len, written)))
