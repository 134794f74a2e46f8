"""`hanok compress`: step 7, a smaller model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.compression.settings import CompressConfig, Method
from hanok.reporting import table


def compress(
    model: Annotated[Path, tyro.conf.Positional],
    data: Path,
    out: Path,
    method: Method = "gptq",
    config: CompressConfig = CompressConfig(),
) -> dict[str, Any]:
    """Quantise the linear maps of a model's layers, and measure what that does to it.

    Args:
        model: a model directory, or a run.
        data: token shards of the model's tokeniser, or a text file: to calibrate on, and held out to measure on.
        out: directory to make; must not exist. A stopped command goes on where it was.
        method: rtn rounds to the nearest; hqq fits scales without data; gptq and awq look at activations; none only prunes.
        config: bits, groups, pruning, rotation, amount of text.
    """
    from hanok.compression.compress import compress as make
    from hanok.recipes.runs import servable_model

    artefact = make(method, config, model=servable_model(model), data=data, out=out)
    table(f"{method}: {out}", ("measure", "value"), list(artefact.metrics.items()))
    print(f"report: {out / 'report.html'}\nnext: hanok chat {out}", file=sys.stderr)
    return {"path": str(out), "metrics": dict(artefact.metrics)}
