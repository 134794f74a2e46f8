"""`hanok align distill METHOD`: step 5, from a teacher to a smaller model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.models.config import ModelConfig
from hanok.reporting import table
from hanok.training.distil.config import DistilConfig, DistilMethod, Shrink


def distill(
    method: Annotated[DistilMethod, tyro.conf.Positional],
    teacher: Path,
    shards: Path,
    out: Path,
    student: Path | None = None,
    prompts: Path | None = None,
    samples: Path | None = None,
    logits: Path | None = None,
    mixture: tuple[str, ...] = (),
    shrink: Shrink = Shrink(),
    config: DistilConfig = DistilConfig(),
    model: ModelConfig | None = None,
) -> dict[str, Any]:
    """Teach a smaller model: on the teacher's answers (offline), on the teacher's law kept on disk (logits), or on the
    student's own answers, which the teacher scores (on-policy: GKD; minillm).

    Args:
        method: how.
        teacher: a model directory, or a run.
        shards: token shards of its tokeniser: what is learnt from, or cut into prompts.
        out: the stage's directory: checkpoints, metrics, report, and the finished model under model/.
        student: a model directory, or a run, to start from; default: a new one, as shrink or model says.
        prompts: a JSONL file of {id, prompt}, in place of prompts cut from the shards.
        samples: the teacher's answers that an earlier run left under samples/.
        logits: the teacher's law that an earlier run left under logits/.
        mixture: splits of the shards and their weights, for example chat-train=0.9 text-train=0.1; default: chat-train alone.
        shrink: the new student, as a share of the teacher.
        config: budget, optimiser, method.
        model: the new student's size and architecture.
    """
    from hanok.cli.train import weight
    from hanok.recipes.runs import servable_model
    from hanok.training.distil.run import distil

    if mixture:
        config = replace(config, mixture=dict(map(weight, mixture)))
    artefact = distil(
        method, config, teacher=servable_model(teacher), shards=shards, out=out,
        student=student and servable_model(student), shape=model, shrink=shrink, prompts=prompts, samples=samples,
        logits=logits,
    )  # fmt: skip
    scalars = [
        (key, value) for key, value in artefact.metrics.items() if isinstance(value, (int, float, str))
    ]
    table(f"{method}: {artefact.path}", ("measure", "value"), scalars)
    print(f"report: {out / 'report.html'}\nnext: hanok chat {artefact.path}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}
