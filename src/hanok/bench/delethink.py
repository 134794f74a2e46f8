"""Thinking in chunks against one long context (Delethink, arXiv 2510.06557), in miniature.

Cost: traces of forced length by a model of two layers through the native engine. Tokens held, blocks of the cache held and
tokens attended to are counted, not timed; the exponent is the slope of log(attended) over log(length).
Learning: ledgers whose running sum must be carried from chunk to chunk (`hanok data ledger`). One model, which
next-token prediction left half-taught, practises by GRPO: with all of its working in view, and with only the last `CARRY` tokens
of it at the start of each chunk. Same prompts, seeds, numbers of answers and updates; accuracy of the likeliest answers.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hanok.bench.outcome import command_line
from hanok.bench.stopped import stoppable
from hanok.data.puzzles.config import LedgerConfig
from hanok.data.puzzles.ledger import write_ledger
from hanok.data.puzzles.write import character_tokenizer
from hanok.engine.api import Request, SamplingParams
from hanok.engine.blocks import BLOCK
from hanok.engine.generator import LocalEngine
from hanok.engine.thinking import Delethink, think
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import Report, table
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.align.config import AlignConfig
from hanok.training.config import TrainConfig
from hanok.training.rewards import mix
from hanok.training.rewards.answers import exact_answer
from hanok.training.rollouts.generator import Generator
from hanok.training.rollouts.prompts import read_prompts
from hanok.training.rollouts.run import align_on_rewards
from hanok.training.rollouts.source import validate
from hanok.training.run import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = ModelConfig(hidden_size=64, num_layers=2, pattern=("gqa",), num_heads=4, max_context=8192)
LENGTHS = (256, 512, 1024, 2048, 4096)
COST = Delethink(chunk=128, carry=32, chunks=1000)
PROMPT = 32

CHUNK, CARRY, CHUNKS, LONGEST = 8, 4, 5, 24  # LONGEST = CHUNK + (CHUNKS - 1) (CHUNK - CARRY)
LEDGER = LedgerConfig(train=24_000, prompts=1000, validation=256)
PRETRAINING = TrainConfig(
    max_steps=130, mixture={"chat-train": 1.0}, max_seq_len=128, tokens_per_step=2048, micro_batch_tokens=2048,
    muon_lr=3e-3, adamw_lr=2e-3, weight_decay=0.0, precision="float32", decay_fraction=0.0, validate_every=130,
    checkpoint_every=130, keep_checkpoints=1, seed=1,
)  # fmt: skip
PRACTICE = AlignConfig(
    max_steps=120, prompts_per_step=16, group_size=8, updates_per_rollout=2, max_new_tokens=LONGEST, muon_lr=3e-4,
    adamw_lr=3e-4, max_seq_len=128, micro_batch_tokens=4096, clip_high=0.26, validate_every=1000, checkpoint_every=1000,
    keep_checkpoints=1,
)  # fmt: skip
IN_CHUNKS = replace(PRACTICE, think="delethink", chunk=CHUNK, carry=CARRY, carry_head=0, chunks=CHUNKS)
SEEDS = (1, 2, 3)


def costs(folder: Path, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """Of traces of each length, in one context and in chunks."""
    if not (model := folder / "random").is_dir():
        model.mkdir(parents=True)
        tokenizer = character_tokenizer()
        shape = replace(MODEL, vocab_size=tokenizer.vocab_size)
        save_model(Decoder(shape, generator=torch.Generator().manual_seed(0)), model)
        tokenizer.save(model)
    whole = replace(COST, chunk=MODEL.max_context - PROMPT, chunks=1)
    return [
        {"length": length, "way": way, **_cost(model, length, plan)}
        for length in lengths
        for way, plan in (("one context", whole), ("chunks", COST))
    ]


def _cost(model: Path, length: int, plan: Delethink) -> dict[str, int]:
    """In an engine of its own, whose count of blocks is that of this trace."""
    engine = LocalEngine(model, weights="bf16", max_running=1)
    try:
        params = SamplingParams(max_tokens=length, seed=length, ignore_eos=True)
        (trace,) = think(engine, [Request(id="cost", prompt_ids=range(20, 20 + PROMPT), params=params)], plan)
        blocks = engine.metrics().blocks_peak
    finally:
        engine.close()
    assert len(trace.completion.ids) == length
    per_token = 2 * MODEL.num_layers * MODEL.hidden_size * 2  # keys and values in bfloat16
    return {
        "peak tokens": trace.peak_context, "peak cache bytes": blocks * BLOCK * per_token, "attended": trace.attended,
    }  # fmt: skip


def exponent(rows: Sequence[dict[str, Any]], way: str, measure: str) -> float:
    """Least squares on logarithms."""
    points = [(math.log(row["length"]), math.log(row[measure])) for row in rows if row["way"] == way]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def learning(folder: Path, seeds: Sequence[int] = SEEDS) -> list[dict[str, Any]]:
    """Before and after practice in both ways; goes on where an earlier call stopped."""
    if not (data := folder / "data").is_dir():
        write_ledger(LEDGER, data)
    base = train(PRETRAINING, shards=data, out=folder / "ntp", model=MODEL).path
    ways = {"one context": PRACTICE, "chunks": IN_CHUNKS}
    rows = [
        {"seed": "", "practised": "nothing", **{f"in {way}": exam(base, data, ways[way]) for way in ways}}
    ]
    for seed in seeds:
        for way, config in ways.items():
            out = folder / f"{way.replace(' ', '-')}-{seed}-{config.max_steps}updates"
            model = align_on_rewards(
                "grpo", replace(config, seed=seed), model=base, prompts=data / "prompts.jsonl", rewards=["exact"], out=out
            ).path  # fmt: skip
            marks = {f"in {name}": exam(model, data, ways[name]) for name in ways}
            rows.append({"seed": seed, "practised": way, **marks})
    return rows


def exam(model: Path, data: Path, config: AlignConfig) -> float:
    """Accuracy of the likeliest answers, written in the way of `config`; kept beside the model."""
    file = model.parent / f"exam-{config.think}.json"
    if not file.is_file():
        generator = Generator(model, config, threads=config.threads or torch.get_num_threads())
        try:
            prompts = read_prompts(data / "prompts-validation.jsonl", Tokenizer.load(model), max_tokens=96)
            found = validate(generator, prompts, mix({"exact": exact_answer()}), load_model(model))
        finally:
            generator.close()
        file.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))["validation.reward"]


def run(*, folder: Path = Path("runs/bench/delethink"), quick: bool = False) -> list[dict[str, Any]]:
    """Both parts; tables, and `folder/report.html`."""
    cost = costs(folder, LENGTHS[:3] if quick else LENGTHS)
    columns = ("length", "way", "peak tokens", "peak cache bytes", "attended")
    cells = [tuple(row[name] for name in columns) for row in cost]
    table(f"cost of a trace; chunks of {COST.chunk}, carry {COST.kept}", columns, cells)
    slopes = {way: exponent(cost, way, "attended") for way in ("one context", "chunks")}
    for way, slope in slopes.items():
        print(f"attended ~ length^{slope:.2f} in {way}", file=sys.stderr)
    learnt = learning(folder / "ledger", SEEDS[:1] if quick else SEEDS)
    names = ("seed", "practised", "in one context", "in chunks")
    marks = [tuple(row[name] for name in names) for row in learnt]
    table(
        f"ledger: accuracy of the likeliest answers to {LEDGER.validation}, by how they are written",
        names,
        marks,
    )
    report = Report("Thinking in chunks")
    report.add_plot("Cost", _figure(cost))
    report.add_table("Cost of a trace", columns, cells)
    report.add_table("Exponents of attended tokens", ("way", "exponent"), list(slopes.items()))
    report.add_table("Learning", names, marks)
    report.add_json({"cost": cost, "exponents": slopes, "learning": learnt})
    report.write(folder)
    return [*cost, *learnt]


def _figure(rows: Sequence[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("peak tokens", "attended"), strict=True):
        for way in ("one context", "chunks"):
            points = [(row["length"], row[name]) for row in rows if row["way"] == way]
            axes.loglog(*zip(*points, strict=True), marker="o", label=way)
        axes.set(xlabel="length of the trace", ylabel=name)
        axes.legend()
    return figure


@stoppable
def main() -> None:
    command_line(__doc__, run, folder="runs/bench/delethink", quick="shorter traces, one seed")


if __name__ == "__main__":
    main()
