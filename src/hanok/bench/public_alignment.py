"""Alignment on public data: DPO on preferences about harm (hh-rlhf), and GRPO on word problems (SVAMP).

Both begin at one model and are measured on rows that neither learns from: pairs whose first question is in none that is
learnt, and other problems.

    dpo     share of held-out pairs whose chosen answer gained more over the starting model than the rejected one
    grpo    share of held-out problems whose likeliest answer ends in the right number, before and after

A model of a few million parameters writes few numbers by itself, and what is never right teaches nothing: so an answer
with a number in it earns a little, too.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, read_jsonl, write_jsonl
from hanok.bench.outcome import Rows
from hanok.bench.stopped import stoppable
from hanok.bench.study import study_parser
from hanok.bench.village_exam import points
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import InputError
from hanok.evaluation.statistics import paired_change, wilson
from hanok.recipes.runs import servable_model
from hanok.reporting import table
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.align.preferences import read_pairs
from hanok.training.align.run import align_on_preferences
from hanok.training.rewards import Row, score
from hanok.training.rollouts.prompts import read_prompts
from hanok.training.rollouts.rewards import rewards_of
from hanok.training.rollouts.run import align_on_rewards

PREFERENCES = "hh-rlhf-harmless/harmless_base_test_dev.jsonl.gz"
PROBLEMS = "svamp/svamp_dev.jsonl"
HELD_OUT, SPLITTING_SEED = {"preferences": 0.3, "prompts": 0.5}, 1
REWARDS = ("numeric", "regex:.*[0-9].*=0.1")
_LATEST = 1_000_000  # validation at the end alone
WAYS: Mapping[str, AlignConfig] = {
    "dpo": AlignConfig(
        epochs=2.0, max_seq_len=512, micro_batch_tokens=4096, precision="bfloat16", muon_lr=5e-4, adamw_lr=1.5e-4,
        validate_every=_LATEST,
    ),
    "grpo": AlignConfig(
        max_steps=60, prompts_per_step=32, group_size=8, max_new_tokens=24, max_seq_len=512, generator="bf16",
        samples_kept=2, validate_every=_LATEST,
    ),
}  # fmt: skip


def write_data(data: Path, out: Path) -> Artefact:
    """`preferences.jsonl`, `prompts.jsonl` and of each the part held out. Rows whose sides end otherwise than in one answer each
    behind the same conversation are counted and left out."""
    pairs = [_pair(json.loads(line)) for line in _text(data / PREFERENCES).splitlines()]
    known = [pair for pair in pairs if pair is not None]
    problems = [
        {"id": str(row["id"]), "prompt": row["question"], "answer": row["answer"].removeprefix("#### ")}
        for row in map(json.loads, _text(data / PROBLEMS).splitlines())
    ]
    with create_artefact(
        out, kind="preferences", step={"held_out": HELD_OUT, "seed": SPLITTING_SEED}
    ) as draft:
        for name, rows in (("preferences", known), ("prompts", problems)):
            learnt, held_out = apart(rows, HELD_OUT[name], seed=SPLITTING_SEED)
            write_jsonl(draft.path / f"{name}.jsonl", learnt)
            write_jsonl(draft.path / f"{name}-held-out.jsonl", held_out)
            draft.metrics |= {name: len(learnt), f"{name}.held_out": len(held_out)}
        draft.metrics["preferences.odd"] = len(pairs) - len(known)
    return open_artefact(out)


def apart(rows: Sequence[dict[str, Any]], share: float, *, seed: int) -> tuple[list[Any], list[Any]]:
    """Rows to learn from, and about that share of them held out: rows with one first question stay together."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        asked = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]
        groups[asked].append(row)
    drawn = list(groups)
    random.Random(seed).shuffle(drawn)
    cut = round(share * len(drawn))
    return [row for one in drawn[cut:] for row in groups[one]], [
        row for one in drawn[:cut] for row in groups[one]
    ]


def run(
    *, model: Path, data: Path, folder: Path, seeds: Sequence[int], ways: Mapping[str, AlignConfig] = WAYS, threads: int = 0
) -> Rows:  # fmt: skip
    """Rows {way, seed, ...}. Args: data: the folder of the public sets. Every run goes on where it was stopped."""
    files = folder / "data"
    if not files.exists():
        write_data(data, files)
    rows: Rows = []
    for seed in seeds:
        for name, config in ways.items():
            measure = _preferred if name == "dpo" else _solved
            told = measure(
                replace(config, seed=seed, threads=threads), model, files, folder / f"{name}-seed{seed}"
            )
            rows.append({"way": name, "seed": seed, **told})
    table(
        "public data, held out",
        ["way", "seed", "result"],
        [[*list(row.values())[:2], _told(row)] for row in rows],
    )
    return rows


def _preferred(config: AlignConfig, model: Path, files: Path, out: Path) -> dict[str, Any]:
    held_out = files / "preferences-held-out.jsonl"
    align_on_preferences(
        "dpo", config, model=model, data=files / "preferences.jsonl", out=out, validation=held_out
    )
    last = [row for row in read_jsonl(out / "metrics.jsonl") if "validation.preference.accuracy" in row][-1]
    count = len(read_pairs(held_out, Tokenizer.load(model), max_seq_len=config.max_seq_len))
    share = wilson(round(last["validation.preference.accuracy"] * count), count)
    return {
        "pairs": count, "right": f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})",
        "margin": round(last["validation.preference.margin"], 3), "steps": last["step"],
    }  # fmt: skip


def _solved(config: AlignConfig, model: Path, files: Path, out: Path) -> dict[str, Any]:
    held_out = files / "prompts-held-out.jsonl"
    trained = align_on_rewards(
        "grpo",
        config,
        model=model,
        prompts=files / "prompts.jsonl",
        rewards=REWARDS,
        out=out,
        validation=held_out,
    ).path
    before, after = (_answers(one, held_out, config) for one in (model, trained))
    change = paired_change(*([right for _, right in found] for found in (before, after)))
    return {
        "problems": len(after), "before": round(100 * change.before, 1), "after": round(100 * change.after, 1),
        "change": points(change), "different answers": len({text for text, _ in after}),
    }  # fmt: skip


def _answers(model: Path, file: Path, config: AlignConfig) -> list[tuple[str, bool]]:
    """The likeliest answer to each prompt, and whether its last number is the right one."""
    engine = LocalEngine(model, weights="bf16", max_running=32)
    prompts = read_prompts(file, engine.tokenizer, max_tokens=config.max_seq_len - config.max_new_tokens)
    params = SamplingParams(max_tokens=config.max_new_tokens, temperature=0.0)
    found = engine.generate([Request(id=one.name, prompt_ids=one.ids, params=params) for one in prompts])
    texts = [engine.tokenizer.decode(one.ids).strip() for one in found]
    engine.close()
    rows = [Row(one.messages, text, one.columns) for one, text in zip(prompts, texts, strict=True)]
    return list(
        zip(texts, (total == 1.0 for total in score(rewards_of(REWARDS[:1]), rows).totals), strict=True)
    )


def _pair(row: Mapping[str, str]) -> dict[str, Any] | None:
    chosen, rejected = (_turns(row[side]) for side in ("chosen", "rejected"))
    sound = (
        len(chosen) > 1
        and chosen[:-1] == rejected[:-1]
        and chosen[-1]["role"] == rejected[-1]["role"] == "assistant"
    )
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]} if sound else None


def _turns(text: str) -> list[dict[str, str]]:
    pieces = re.split(r"(?:^|\n\n)(Human|Assistant):", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _text(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"no file {file}", remedy="set HANOK_DATA to the folder of public data sets")
    content = file.read_bytes()
    return (gzip.decompress(content) if file.suffix == ".gz" else content).decode()


def _told(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("way", "seed"))


@stoppable
def main() -> None:
    parser = study_parser(
        __doc__, Path("runs/bench/public-alignment"), WAYS, choose="seed 0", seeds=[1]
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=WAYS["grpo"].max_steps, help="of grpo")
    options = parser.parse_args()
    ways = {name: WAYS[name] for name in options.ways or WAYS}
    if "grpo" in ways:
        ways["grpo"] = replace(ways["grpo"], max_steps=options.steps)
    rows = run(
        model=servable_model(options.run), data=Path(os.environ.get("HANOK_DATA", "../shared/data")),
        folder=options.folder, seeds=[0] if options.choose else options.seeds, ways=ways, threads=options.threads,
    )  # fmt: skip
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
