"""`hanok align METHOD`: step 5, from preferences or from rewards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.errors import ConfigError
from hanok.reporting import table
from hanok.training.align.config import AlignConfig
from hanok.training.align.methods import PAIR_METHODS, Method


def align(
    method: Annotated[Method, tyro.conf.Positional],
    model: Path,
    out: Path,
    data: Path | None = None,
    prompts: Path | None = None,
    reward: tuple[str, ...] = (),
    validation: Path | None = None,
    rehearsal: Path | None = None,
    config: AlignConfig = AlignConfig(),
) -> dict[str, Any]:
    """Make a model better by preferences (dpo, ipo, kto, orpo, simpo, cpo), learn a reward model from them (reward),
    or practise against a reward (grpo, rloo, ppo, dapo, gspo, cispo, drgrpo, sapo, scalerl, star).

    Args:
        method: how.
        model: a model directory, or a run, to start from.
        out: the stage's directory: checkpoints, metrics, report, and the finished model under model/.
        data: preferences, a JSONL file of {id, prompt, chosen, rejected}.
        prompts: a JSONL file of {id, prompt, ...}; rewards read the other columns, for example answer.
        reward: names of rewards, each perhaps with a weight: numeric=1.0 format=0.2.
        validation: more of the same that is not trained on.
        rehearsal: token shards that the model was trained on, learnt along in every step, against forgetting.
        config: budget, optimiser, method.
    """
    from hanok.recipes.runs import servable_model

    model = servable_model(model)
    if method in PAIR_METHODS:
        if data is None or prompts is not None or reward:
            raise ConfigError(
                f"{method} learns from preferences", remedy="give --data, no --prompts and no --reward"
            )
        from hanok.training.align.run import align_on_preferences

        artefact = align_on_preferences(
            method, config, model=model, data=data, out=out, validation=validation, rehearsal=rehearsal
        )
    else:
        if prompts is None or not reward or data is not None:
            raise ConfigError(
                f"{method} learns from rewards", remedy="give --prompts and --reward, and no --data"
            )
        from hanok.training.rollouts.run import align_on_rewards

        artefact = align_on_rewards(
            method, config, model=model, prompts=prompts, rewards=reward, out=out, validation=validation,
            rehearsal=rehearsal,
        )  # fmt: skip
    scalars = [
        (key, value) for key, value in artefact.metrics.items() if isinstance(value, (int, float, str))
    ]
    table(f"{method}: {artefact.path}", ("measure", "value"), scalars)
    after = (
        f"hanok align grpo --reward model:{artefact.path}"
        if method == "reward"
        else f"hanok chat {artefact.path}"
    )
    print(f"report: {out / 'report.html'}\nnext: {after}", file=sys.stderr)
    return {"path": str(artefact.path), "metrics": dict(artefact.metrics)}


def predict(
    run: Annotated[Path, tyro.conf.Positional],
    share: float = 1.0,
    ceiling: float = 1.0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Where a run of practice will end, by a sigmoid through its rewards so far; while it runs, or behind it.

    Args:
        run: the directory that `hanok align` was given as --out.
        share: fit to the points within this part of the run alone, and compare with the rest.
        ceiling: the largest reward there is.
        out: directory of the page; default: prediction/ in the run's.
    """
    from hanok.training.align.predict import predict_run

    found = predict_run(run, share=share, ceiling=ceiling, out=out)
    table(f"{run}: at the end", ("measure", "value"), list(found.items()))
    print(f"report: {(out or run / 'prediction') / 'report.html'}", file=sys.stderr)
    return found
