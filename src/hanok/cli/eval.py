"""`hanok eval`: step 6."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

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
