"""Claim to look at: a learner that does not wait for its generator makes more updates a second on the same cores.

GRPO by a model of the quickstart's shape with random weights, on one machine in one run: in turn with all threads, and with
k roll-outs ahead with half of them on each side. Every other prompt teaches nothing, as is usual in practice, so the learner has
half of the answers. Once with a reward that costs nothing, once with one that waits, as a judge behind a URL does. Rates are of
the updates behind the first roll-outs; the idle shares are those that the run logs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.stopped import stoppable
from hanok.data.puzzles.write import character_tokenizer
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import log
from hanok.training.align.config import AlignConfig
from hanok.training.rewards import Mix, mix
from hanok.training.rollouts.run import align_on_rewards

MODEL = ModelConfig(
    hidden_size=192,
    num_layers=4,
    pattern=("kda", "kda", "kda", "mla"),
    num_heads=4,
    kv_lora_rank=64,
    max_context=256,
)
PRACTICE = AlignConfig(
    max_steps=16, prompts_per_step=16, group_size=8, max_new_tokens=64, max_seq_len=128, micro_batch_tokens=4096,
    generator="bf16", validate_every=1000, checkpoint_every=1000, keep_checkpoints=1, samples_kept=0,
)  # fmt: skip
AHEAD = (1, 2)
WARM_UP = 3  # updates that are not counted
WAITS = 0.02  # seconds a judge takes for an answer, eight at a time


def run(*, folder: Path = Path("runs/bench/overlap"), quick: bool = False, rounds: int | None = None) -> Rows:
    """Rows of medians, {..., "idle": {"learner", "generator"}}, and the folder's page."""
    model, prompts = _inputs(folder)
    config = replace(PRACTICE, max_steps=8) if quick else PRACTICE
    rounds = rounds or (1 if quick else 3)
    rewards = {"quick reward": mix({"digits": _digits}), "reward that waits": mix({"digits": _waiting})}
    rows: Rows = []
    for case, reward in rewards.items():
        rates: dict[int, list[float]] = {}
        idle: dict[int, list[tuple[float, float]]] = {}
        for number in range(rounds):
            log.info("%s, round %d of %d", case, number + 1, rounds)
            for ahead in (0, *AHEAD):
                found = _practise(model, prompts, reward, replace(config, overlap=ahead), folder / "run")
                rates.setdefault(ahead, []).append(_rate(found))
                idle.setdefault(ahead, []).append(_idle(found))
        for ahead in AHEAD:
            learner, generator = (statistics.median(side) for side in zip(*idle[ahead], strict=True))
            rows.append(
                compare(
                    f"overlap/{case}/{ahead} ahead", "updates a second", rates[ahead], {"in turn": rates[0]}, digits=3,
                    idle={"learner": round(learner, 3), "generator": round(generator, 3)},
                )
            )  # fmt: skip
            rows[-1] |= {
                "learner idle": rows[-1]["idle"]["learner"],
                "generator idle": rows[-1]["idle"]["generator"],
            }
    columns = {
        "case": "case", "ours": "overlapped", "theirs": "in turn", "ratio": "ratio", "spread": "spread",
        "learner idle": "learner idle", "generator idle": "generator idle",
    }  # fmt: skip
    present("Updates a second of GRPO, overlapped and in turn", rows, folder, columns=columns)
    return rows


def _inputs(folder: Path) -> tuple[Path, Path]:
    """A model of random weights and prompts for it."""
    model, prompts = folder / "model", folder / "prompts.jsonl"
    if not model.is_dir():
        model.mkdir(parents=True)
        tokenizer = character_tokenizer()
        shape = replace(MODEL, vocab_size=tokenizer.vocab_size)
        save_model(Decoder(shape, generator=torch.Generator().manual_seed(0)), model)
        tokenizer.save(model)
        rows = [{"id": str(i), "prompt": f"{i}+{i * 7 % 1000}=", "teaches": i % 2} for i in range(1000)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return model, prompts


def _practise(
    model: Path, prompts: Path, reward: Mix, config: AlignConfig, out: Path
) -> list[dict[str, Any]]:
    """Lines of the log of a run from the beginning."""
    if out.exists():
        shutil.rmtree(out)
    align_on_rewards("grpo", config, model=model, prompts=prompts, rewards=reward, out=out)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def _rate(rows: Sequence[Mapping[str, Any]]) -> float:
    first, last = rows[WARM_UP - 1], rows[-1]
    return (last["step"] - first["step"]) / (last["time.seconds"] - first["time.seconds"])


def _idle(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Of learner and generator; in turn, nothing is logged: whoever does not work waits."""
    counted = [row for row in rows[WARM_UP:] if "time.learner_idle" in row]
    if not counted:
        return float("nan"), float("nan")
    return (
        statistics.mean(row["time.learner_idle"] for row in counted),
        statistics.mean(row["time.generator_idle"] for row in counted),
    )


def _digits(prompt: Any, completion: str, columns: Mapping[str, Any]) -> float:
    return columns["teaches"] * sum(c.isdigit() for c in completion) / max(len(completion), 1)


async def _waiting(prompt: Any, completion: str, columns: Mapping[str, Any]) -> float:
    await asyncio.sleep(WAITS)
    return _digits(prompt, completion, columns)


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="3", folder="runs/bench/overlap", quick="8 updates, one round")


if __name__ == "__main__":
    main()
