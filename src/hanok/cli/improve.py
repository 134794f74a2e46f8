"""`hanok improve`: step 8."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.improvement.config import ImproveConfig
from hanok.reporting import table


def improve(
    run: Annotated[Path, tyro.conf.Positional],
    feedback: Path | None = None,
    out: Path | None = None,
    config: ImproveConfig = ImproveConfig(),
) -> dict[str, Any]:
    """Learn from feedback: fine-tune on corrections with replay, and show before and after on the same questions.

    Args:
        run: the run whose model was served.
        feedback: a JSONL file, or a feedback database; default: what the chat page stored for this run.
        out: directory to make; default: the run's next improve-NNN.
        config: learning rate, replay, epochs.
    """
    from hanok.improvement.improve import improve as improve_run

    artefact = improve_run(run, feedback=feedback, out=out, config=config)
    scalars = [(key, value) for key, value in artefact.metrics.items() if isinstance(value, (int, float, str))]
    table("improved", ("measure", "value"), scalars)
    print(f"report: {artefact.path / 'report.html'}\nnext: hanok serve {artefact.path}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}
