"""`hanok train`: step 5."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanok.errors import ConfigError
from hanok.models.config import ModelConfig
from hanok.training.config import TrainConfig


def train(
    shards: Path,
    out: Path,
    init_from: Path | None = None,
    mixture: tuple[str, ...] = (),
    config: TrainConfig = TrainConfig(),
    model: ModelConfig | None = None,
) -> dict[str, Any]:
    """Train on token shards: from scratch with a model configuration, or on from a model directory.

    Args:
        shards: token shards.
        out: the stage's directory: checkpoints, metrics, report, and the finished model under model/.
        init_from: a model directory to start from.
        mixture: splits to train on and their weights, for example chat-train=3.0; default: text-train alone.
        config: budget, optimiser, schedule.
        model: size and architecture, if not init_from.
    """
    from hanok.training.run import train as train_model

    if mixture:
        config = replace(config, mixture=dict(map(weight, mixture)))
    if (init_from is None) == (model is None):
        raise ConfigError("give either --init-from or a model configuration", remedy="see hanok train --help")
    artefact = train_model(config, shards=shards, out=out, model=model, init_from=init_from)
    print(f"next: hanok eval {artefact.path} --shards {shards} --out EVAL", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}


def weight(item: str) -> tuple[str, float]:
    name, _, weight = item.partition("=")
    try:
        return name, float(weight)
    except ValueError as error:
        raise ConfigError(
            f'mixture "{item}"', remedy="write it as NAME=WEIGHT, for example chat-train=3.0"
        ) from error
