"""GRPO, RLOO and PPO practise the same sums of the harder village from the same model: do they come to the same reward? And what
is the most that practice brings (`dapo-rehearsed-longer`)?

The first three draw the same prompts at the same steps for a seed; DAPO draws more. The reward is the mean over the roll-outs of
the last fifth of the run; the harder village's exam is asked before and after, with paired intervals; settings are chosen on its
validation questions (`--choose`). Every stage goes on where it was stopped, so the whole may be run in pieces.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanok.artefacts import read_jsonl
from hanok.artefacts.shards import open_shards
from hanok.bench.outcome import Rows, shown
from hanok.bench.stopped import stoppable
from hanok.bench.study import study_parser
from hanok.bench.village_exam import changes, divergence, exam, points
from hanok.data.village.alignment import write_alignment
from hanok.data.village.config import AlignmentDataConfig
from hanok.evaluation.config import Split
from hanok.recipes.runs import servable_model
from hanok.reporting import table
from hanok.training.align.config import AlignConfig
from hanok.training.align.rehearsal import mixture_of
from hanok.training.rollouts.run import align_on_rewards
from hanok.training.run import train

PRACTICE = AlignConfig(
    max_steps=60, prompts_per_step=32, group_size=8, max_new_tokens=80, generator="bf16", samples_kept=2
)
_FASTER = {"muon_lr": 6e-4, "adamw_lr": 2e-4}
REHEARSAL = "rehearsal"
"""In place of a method: the control without any reward, which learns what is rehearsed and nothing else."""
Way = tuple[str, bool, Mapping[str, Any]]
"""A method, whether it rehearses, and settings beside `PRACTICE`."""
WAYS: Mapping[str, Way] = {
    "grpo": ("grpo", False, {}), "rloo": ("rloo", False, {}), "ppo": ("ppo", False, {"gae_lambda": 1.0}),
    "dapo-rehearsed-longer": ("dapo", True, {**_FASTER, "max_steps": 120}),
}  # fmt: skip
CHOICES: Mapping[str, Way] = {
    **WAYS,
    "grpo-faster": ("grpo", False, _FASTER),
    "grpo-longer": ("grpo", False, {"max_steps": 120}),
    "grpo-further": ("grpo", False, {**_FASTER, "max_steps": 120}),
    "grpo-rehearsed": ("grpo", True, _FASTER),
    "drgrpo": ("drgrpo", False, {}),
    "rehearsal-longer": (REHEARSAL, True, {**_FASTER, "max_steps": 120}),
    "grpo-rehearsed-longer": ("grpo", True, {**_FASTER, "max_steps": 120}),
    "dapo": ("dapo", False, {}),
    "dapo-faster": ("dapo", False, _FASTER),
    "dapo-rehearsed": ("dapo", True, _FASTER),
}
MEASURED_AGAINST = "grpo"
_LAST = 5  # part of the run whose roll-outs are the reward at its end


def run(
    *, model: Path, shards: Path, village: Path, folder: Path, seeds: Sequence[int], ways: Mapping[str, Way] = WAYS,
    split: Split = "exam", data: AlignmentDataConfig = AlignmentDataConfig(), practice: AlignConfig = PRACTICE,
) -> Rows:  # fmt: skip
    """Rows {way, seed, reward, minus grpo, tokens, minutes, kl, sums, facts, abstentions}: kinds as changes in points; "minus
    grpo" of the same seed, None where that was not practised; "kl" from the start on held-out prompts."""
    hard = folder / "hard"
    if not hard.exists():
        write_alignment(data, village, hard)
    before = exam(model, shards, hard, folder / f"before-{split}", split)
    rows: Rows = []
    for seed in seeds:
        of_seed: dict[str, dict[str, Any]] = {}
        for name, (method, rehearses, settings) in ways.items():
            out = folder / f"{name}-seed{seed}"
            config = replace(practice, seed=seed, **settings)
            if method == REHEARSAL:
                trained = rehearse(config, model=model, shards=shards, out=out)
            else:
                trained = align_on_rewards(
                    method, config, model=model, prompts=hard / "prompts.jsonl", rewards=["numeric"], out=out,
                    validation=hard / "prompts-validation.jsonl", rehearsal=shards if rehearses else None,
                ).path  # fmt: skip
            steps = [row for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
            found = changes(before, exam(trained, shards, hard, out / split, split))
            of_seed[name] = {
                "way": name, "seed": seed, "reward": at_the_end(steps, "reward"), "minus grpo": None,
                "tokens": at_the_end(steps, "rollout.tokens"), "minutes": steps[-1]["time.seconds"] / 60,
                "kl": str(divergence(model, trained, hard / "prompts-validation.jsonl")),
                **{kind: points(change) for kind, change in found.items()},
            }  # fmt: skip
        if MEASURED_AGAINST in of_seed:
            for row in of_seed.values():
                if row["reward"] is not None:
                    row["minus grpo"] = row["reward"] - of_seed[MEASURED_AGAINST]["reward"]
        rows += of_seed.values()
    columns = list(rows[0])
    table(
        f"practice: reward at the end, and changes in points ({split})", columns,
        [[shown(row[column]) for column in columns] for row in rows],
    )  # fmt: skip
    return rows


def rehearse(config: AlignConfig, *, model: Path, shards: Path, out: Path) -> Path:
    """As many steps of next-token learning as `config` has updates, on what it would rehearse beside them."""
    training = replace(
        config.training(), mixture=mixture_of(config, open_shards(shards, verify=False)),
        tokens_per_step=config.rehearsal_tokens, micro_batch_tokens=config.rehearsal_tokens,
    )  # fmt: skip
    return train(training, shards=shards, out=out, init_from=model).path


def at_the_end(steps: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean over the last fifth of the steps that have it; None where none has."""
    rows = [row[name] for row in steps if name in row]
    last = rows[-max(1, len(rows) // _LAST) :]
    return sum(last) / len(last) if last else None


@stoppable
def main() -> None:
    parser = study_parser(
        __doc__, Path("runs/bench/practice"), CHOICES, choose="seed 0, and questions to choose settings by in place of the exam",
        seeds=[1],
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=PRACTICE.max_steps)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    rows = run(
        model=servable_model(options.run), shards=options.run / "shards", village=options.run / "village",
        folder=options.folder, seeds=[0] if options.choose else options.seeds,
        ways={name: CHOICES[name] for name in options.ways or WAYS}, split="validation" if options.choose else "exam",
        practice=replace(PRACTICE, max_steps=options.steps, threads=options.threads),
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
