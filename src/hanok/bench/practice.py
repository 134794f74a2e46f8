"""GRPO, RLOO and PPO practise the same sums of the harder village from the same model: do they come to the same reward?

All draw the same prompts at the same steps for a seed. The reward is the mean over the roll-outs of the last fifth of the run;
the harder village's exam is asked before and after, with paired intervals. Every stage goes on where it was stopped, so the
whole may be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanok.artefacts import read_jsonl
from hanok.bench.outcome import Rows, shown
from hanok.data.village.alignment import write_alignment
from hanok.data.village.config import AlignmentDataConfig
from hanok.evaluation.compare import compare_answers
from hanok.evaluation.config import VerifyConfig
from hanok.evaluation.statistics import Change
from hanok.evaluation.verify import verify
from hanok.recipes.runs import servable_model
from hanok.reporting import table
from hanok.training.align.config import AlignConfig
from hanok.training.rollouts.run import align_on_rewards

PRACTICE = AlignConfig(
    max_steps=60, prompts_per_step=32, group_size=8, max_new_tokens=80, generator="bf16", samples_kept=2
)
METHODS: Mapping[str, Mapping[str, Any]] = {"grpo": {}, "rloo": {}, "ppo": {"gae_lambda": 1.0}}
MEASURED_AGAINST = "grpo"
KINDS = {"arithmetic": "sums", "fact": "facts", "abstention": "abstentions"}
_LAST = 5  # part of the run whose roll-outs are the reward at its end


def run(
    *, model: Path, shards: Path, village: Path, folder: Path, seeds: Sequence[int], methods: Sequence[str] = tuple(METHODS),
    data: AlignmentDataConfig = AlignmentDataConfig(), practice: AlignConfig = PRACTICE,
) -> Rows:  # fmt: skip
    """Rows {method, seed, reward, minus grpo, tokens, sums, facts, abstentions}: kinds as changes in points; "minus grpo" of the
    same seed, None where that was not practised."""
    hard = folder / "hard"
    if not hard.exists():
        write_alignment(data, village, hard)
    before = _exam(model, shards, hard, folder / "before")
    rows: Rows = []
    for seed in seeds:
        of_seed: dict[str, dict[str, Any]] = {}
        for method in methods:
            out = folder / f"{method}-seed{seed}"
            trained = align_on_rewards(
                method, replace(practice, seed=seed, **METHODS[method]), model=model, prompts=hard / "prompts.jsonl",
                rewards=["numeric"], out=out, validation=hard / "prompts-validation.jsonl",
            ).path  # fmt: skip
            rollouts = [row for row in read_jsonl(out / "metrics.jsonl") if "reward" in row]
            changes = compare_answers(before, _exam(trained, shards, hard, out / "exam"))
            of_seed[method] = {
                "method": method, "seed": seed, "reward": at_the_end(rollouts, "reward"), "minus grpo": None,
                "tokens": at_the_end(rollouts, "rollout.tokens"),
                **{name: _points(changes[kind]) for kind, name in KINDS.items()},
            }  # fmt: skip
        if MEASURED_AGAINST in of_seed:
            for row in of_seed.values():
                row["minus grpo"] = row["reward"] - of_seed[MEASURED_AGAINST]["reward"]
        rows += of_seed.values()
    columns = list(rows[0])
    table(
        "practice: reward at the end, and changes on the exam in points", columns,
        [[shown(row[column]) for column in columns] for row in rows],
    )  # fmt: skip
    return rows


def at_the_end(rollouts: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean over the last fifth of the roll-outs."""
    last = rollouts[-max(1, len(rollouts) // _LAST) :]
    return sum(row[name] for row in last) / len(last)


def _exam(model: Path, shards: Path, hard: Path, out: Path) -> Path:
    if not out.exists():
        verify(VerifyConfig(), model=model, shards=shards, village=hard, out=out)
    return out


def _points(change: Change) -> str:
    return f"{100 * change.difference:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/quickstart"), help="a finished run over the village"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/practice"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="compared with grpo"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = run(
        model=servable_model(options.run), shards=options.run / "shards", village=options.run / "village",
        folder=options.folder, seeds=options.seeds, methods=options.methods, practice=replace(PRACTICE, threads=options.threads),
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
