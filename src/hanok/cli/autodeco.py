"""`hanok align autodeco` and `hanok align autodeco-control`: heads that choose temperature and top-p for each token."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact
from hanok.reporting import table
from hanok.training.decoding.config import ControlConfig, DecodingConfig


def autodeco(
    model: Path,
    shards: Path,
    out: Path,
    mixture: tuple[str, ...] = (),
    config: DecodingConfig = DecodingConfig(),
) -> dict[str, Any]:
    """Learn a temperature and a top-p for each token on a frozen model (AutoDeco). The result is the same model with
    `decoding_heads.safetensors` beside its weights; `hanok chat` and `hanok serve` use it by themselves.

    Args:
        model: a model directory, or a run (then its servable model). Heads that it has are trained on.
        shards: token shards with its tokeniser.
        out: the stage's directory: checkpoints, metrics, report, and the finished model under model/.
        mixture: splits to learn from and their weights; default: chat-train alone.
        config: budget, optimiser, loss.
    """
    from hanok.cli.train import weight
    from hanok.recipes.runs import servable_model
    from hanok.training.decoding.run import train_heads

    if mixture:
        config = replace(config, mixture=dict(map(weight, mixture)))
    return _told("autodeco", train_heads(config, model=servable_model(model), shards=shards, out=out))


def autodeco_control(
    model: Path, prompts: Path, out: Path, config: ControlConfig = ControlConfig()
) -> dict[str, Any]:
    """Teach a model's decoding heads to follow words in the prompt: lower after "Be certain.", higher after "Be inventive."

    Args:
        model: a model directory with decoding heads, or a run.
        prompts: a JSONL file of {messages: [...]} that end with the assistant's answer.
        out: the stage's directory: checkpoints, metrics, report, and the finished model under model/.
        config: wordings, margins, budget, optimiser.
    """
    from hanok.recipes.runs import servable_model
    from hanok.training.decoding.control import train_control

    return _told(
        "autodeco-control", train_control(config, model=servable_model(model), prompts=prompts, out=out)
    )


def _told(name: str, artefact: Artefact) -> dict[str, Any]:
    table(f"{name}: {artefact.path}", ("measure", "value"), list(artefact.metrics.items()))
    print(f"next: hanok chat {artefact.path} --show-decoding", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}
