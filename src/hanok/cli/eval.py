"""`hanok eval`: step 6."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hanok.evaluation.config import VerifyConfig
from hanok.reporting import table


def verify(
    model: Annotated[Path, tyro.conf.Positional],
    shards: Path,
    out: Path,
    village: Path | None = None,
    config: VerifyConfig = VerifyConfig(),
) -> dict[str, Any]:
    """Measure a model: bits per byte on held-out shards, the village's questions, samples; one report.

    Args:
        model: a model directory, or a run.
        shards: token shards of the same tokeniser.
        out: directory to make.
        village: the village corpus whose questions.jsonl to ask.
        config: options.
    """
    from hanok.evaluation.verify import verify as verify_model
    from hanok.recipes.runs import servable_model

    artefact = verify_model(config, model=servable_model(model), shards=shards, village=village, out=out)
    scalars = [
        (key, value) for key, value in artefact.metrics.items() if isinstance(value, (int, float, str))
    ]
    table("verified", ("measure", "value"), scalars)
    print(f"report: {artefact.path / 'report.html'}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}


def safety(
    model: Annotated[Path, tyro.conf.Positional],
    data: Path,
    out: Path,
    split: Literal["exam", "validation"] = "exam",
    config: VerifyConfig = VerifyConfig(max_new_tokens=64),
) -> dict[str, Any]:
    """What a village model refuses, what it refuses for nothing, and whether it follows instructions that nobody gave.

    Args:
        model: a model directory, or a run.
        data: a corpus of `hanok data village-safety`.
        out: directory to make.
        split: the exam, or the validation questions that settings are chosen by.
        config: options.
    """
    from hanok.evaluation.safety import examine_safety
    from hanok.recipes.runs import servable_model

    artefact = examine_safety(config, model=servable_model(model), safety=data, out=out, split=split)
    table("safety", ("measure", "share"), list(artefact.metrics.items()))
    print(f"report: {artefact.path / 'report.html'}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}


def compare(
    before: Annotated[Path, tyro.conf.Positional],
    after: Annotated[Path, tyro.conf.Positional],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Two evaluations of the same exam: what changed, with paired bootstrap intervals and McNemar's exact p.

    Args:
        before: a directory of `hanok eval`.
        after: another, of a later model.
        confidence: of the intervals.
    """
    from dataclasses import asdict

    from hanok.evaluation.compare import compare_answers

    changes = compare_answers(before, after, confidence=confidence)
    rows = [
        (
            name,
            *(f"{100 * share:.1f}" for share in (c.before, c.after, c.difference)),
            f"{100 * c.low:+.1f} to {100 * c.high:+.1f}",
            c.gained,
            c.lost,
            f"{c.p_value:.2g}",
        )
        for name, c in changes.items()
    ]
    columns = (
        "right, in %",
        "before",
        "after",
        "change",
        f"{confidence:.0%} interval",
        "gained",
        "lost",
        "p",
    )
    table(f"{before} -> {after}", columns, rows)
    return {name: asdict(change) for name, change in changes.items()}
