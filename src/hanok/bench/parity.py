"""RL after next-token prediction on parity, in miniature (Tsilivis et al., arXiv 2510.11495).

A share p of the training answers writes the chain of prefix parities, the others the answer alone. Next-token prediction
learns both: right on long answers, a guess on short ones, and the likeliest answer is short below p = 1/3. Practice keeps right
answers, so the share of long ones goes p -> 2p / (1 + p) a round (`star` does exactly that: learn the right ones of a roll-out),
and accuracy of the likeliest answer jumps from a half to one. GRPO gets there too, by no such law.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.bench.outcome import command_line, shown
from hanok.bench.stopped import stoppable
from hanok.data.puzzles.config import ParityConfig
from hanok.data.puzzles.parity import write_parity
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.models.config import ModelConfig
from hanok.reporting import Report, table
from hanok.training.align.config import AlignConfig
from hanok.training.config import TrainConfig
from hanok.training.rollouts.run import align_on_rewards
from hanok.training.run import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS, SAMPLES = 10, 4
SHARES = (  # p, seed, steps of pre-training; the last is too early: long answers are not learnt yet
    (0.25, 1, 160), (0.4, 1, 160), (0.25, 2, 160), (0.25, 3, 160), (0.15, 2, 300), (0.15, 1, 160),
)  # fmt: skip
ENOUGH = 0.5  # of long answers, at which practice in rounds ends
MODEL = ModelConfig(hidden_size=64, num_layers=2, pattern=("gqa",), num_heads=4, max_context=256)
PRETRAINING = TrainConfig(
    mixture={"chat-train": 1.0}, max_seq_len=64, tokens_per_step=4096, micro_batch_tokens=4096,
    muon_lr=3e-3, adamw_lr=2e-3, weight_decay=0.0, precision="float32", decay_fraction=0.3, validate_every=160,
    checkpoint_every=160, keep_checkpoints=1,
)  # fmt: skip
ROUND = AlignConfig(
    max_steps=16, updates_per_rollout=16, prompts_per_step=256, group_size=8, max_new_tokens=BITS + 4, muon_lr=1.5e-3,
    adamw_lr=1.5e-3, warmup_steps=0, decay_fraction=0.8, max_seq_len=64, micro_batch_tokens=4096,
    validate_every=1000, checkpoint_every=1000, keep_checkpoints=1,
)  # fmt: skip
GRPO = replace(
    ROUND,
    max_steps=25,
    updates_per_rollout=1,
    prompts_per_step=32,
    muon_lr=5e-4,
    adamw_lr=5e-4,
    decay_fraction=0.0,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Args:
    greedy: accuracy of the likeliest answers. tokens: their mean length without the end. long: share of chains among answers
        sampled at temperature 1. of_long, of_short: accuracy of each kind; None where there are none.
    """

    greedy: float
    tokens: float
    long: float
    of_long: float | None
    of_short: float | None


def mark(model: Path, prompts: Path, *, seed: int) -> Mark:
    """On inputs that were neither learnt from nor practised on."""
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    engine = LocalEngine(model, weights="float32", max_running=256)
    try:
        likely = _answers(
            engine, rows, SamplingParams(temperature=0.0, max_tokens=BITS + 4, decoding="fixed"), 1
        )
        drawn = _answers(
            engine, rows, SamplingParams(seed=seed, max_tokens=BITS + 4, decoding="fixed"), SAMPLES
        )
    finally:
        engine.close()
    right = [text[-1:] == row["answer"][0] for row, text in drawn]
    long = [len(text) > 1 for _, text in drawn]
    return Mark(
        _mean([text[-1:] == row["answer"][0] for row, text in likely]) or 0.0,
        _mean([len(text) for _, text in likely]) or 0.0,
        _mean(long) or 0.0,
        _mean([a for a, b in zip(right, long, strict=True) if b]),
        _mean([a for a, b in zip(right, long, strict=True) if not b]),
    )


def law(share: float) -> float:
    """The share of long answers among the right ones, where short ones are right half of the time."""
    return 2 * share / (1 + share)


def pretrained(share: float, seed: int, steps: int, folder: Path) -> tuple[Path, Path]:
    """The model that next-token prediction gives, and the data; made once in `folder`."""
    place = folder / f"p{share:g}-seed{seed}"
    if not (data := place / "data").is_dir():
        write_parity(ParityConfig(bits=BITS, long=share, train=24_000, prompts=1000, seed=seed), data)
    return train(
        replace(PRETRAINING, max_steps=steps, seed=seed), shards=data, out=place / "ntp", model=MODEL
    ).path, data


def rounds_of(share: float) -> int:
    """Until more than half of the answers should be long."""
    return 0 if share > ENOUGH else 1 + rounds_of(law(share))


def study(share: float, seed: int, steps: int, folder: Path) -> list[dict[str, Any]]:
    """One p: pre-training, rounds of practice, GRPO from the same start. Goes on where an earlier call stopped."""
    start, data = pretrained(share, seed, steps, folder)
    place = data.parent
    found = [_row(share, seed, "next-token prediction", _marked(start, data, seed), None)]
    model = start
    for number in range(1, rounds_of(share) + 1):
        model = _practised(
            "star", replace(ROUND, seed=100 * seed + number), model, data, place / f"round{number}"
        )
        found.append(_row(share, seed, f"round {number}", _marked(model, data, seed), law(found[-1]["long"])))
    if share < 1 / 3:
        model = _practised("grpo", replace(GRPO, seed=seed), start, data, place / f"grpo-{GRPO.max_steps}")
        found.append(_row(share, seed, f"grpo, {GRPO.max_steps} steps", _marked(model, data, seed), None))
    return found


def _practised(method: str, config: AlignConfig, model: Path, data: Path, out: Path) -> Path:
    return align_on_rewards(
        method, config, model=model, prompts=data / "prompts.jsonl", rewards=["exact"], out=out
    ).path


def _marked(model: Path, data: Path, seed: int) -> Mark:
    """Kept beside the model."""
    file = model.parent / "mark.json"
    if not file.is_file():
        found = mark(model, data / "prompts-validation.jsonl", seed=seed)
        file.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return Mark(**json.loads(file.read_text(encoding="utf-8")))


def _row(share: float, seed: int, stage: str, found: Mark, expected: float | None) -> dict[str, Any]:
    return {"p": share, "seed": seed, "stage": stage, **asdict(found), "law": expected}


def run(*, folder: Path = Path("runs/bench/parity"), quick: bool = False) -> list[dict[str, Any]]:
    """Train and measure all shares; the table, and `folder/report.html` with the plot."""
    chosen = SHARES[:1] if quick else SHARES
    rows = [row for share, seed, steps in chosen for row in study(share, seed, steps, folder)]
    columns = ("p", "seed", "stage", "greedy", "tokens", "long", "law", "of_long", "of_short")
    cells = [tuple(shown(row[name]) for name in columns) for row in rows]
    table("RL after next-token prediction: parity", columns, cells)
    off = [abs(row["long"] - row["law"]) for row in rows if row["law"] is not None]
    print(f"long share against 2p/(1+p): {len(off)} rounds, worst {max(off):.3f}", file=sys.stderr)
    report = Report("RL after next-token prediction: parity")
    report.add_plot("Before and after", figure(rows))
    report.add_table("Stages", columns, cells)
    report.add_json({"rows": rows})
    report.write(folder)
    return rows


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy of the likeliest answer and share of long answers over p; the law between the rounds."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 4), layout="constrained")
    accuracy, share, steps = drawn.subplots(1, 3)
    line = [n / 100 for n in range(101)]
    before = [row for row in rows if row["stage"] == "next-token prediction"]
    first = [row for row in rows if row["stage"] == "round 1"]
    last = list({(row["p"], row["seed"]): row for row in rows if row["stage"].startswith("round")}.values())
    for some, name, style in ((before, "next-token prediction", "o"), (last, "after practice", "^")):
        accuracy.plot([row["p"] for row in some], [row["greedy"] for row in some], style, label=name)
    accuracy.axvline(1 / 3, color="grey", linestyle=":", label="p = 1/3")
    accuracy.set(xlabel="p", ylabel="accuracy of the likeliest answer", xlim=(0, 1), ylim=(0, 1.05))
    for some, name, style in ((before, "next-token prediction", "o"), (first, "after one round", "^")):
        share.plot([row["p"] for row in some], [row["long"] for row in some], style, label=name)
    share.plot(line, line, color="C0", linewidth=0.8, label="p")
    share.plot(line, [law(p) for p in line], color="C1", linewidth=0.8, label="2p / (1 + p)")
    share.set(xlabel="p", ylabel="share of long answers")
    expected = [(row["law"], row["long"]) for row in rows if row["law"] is not None]
    steps.plot([a for a, _ in expected], [b for _, b in expected], "o")
    steps.plot(line, line, color="grey", linewidth=0.8)
    steps.set(xlabel="2p / (1 + p) of the round before", ylabel="share of long answers measured")
    for axes in (accuracy, share):
        axes.legend(fontsize=7)
    return drawn


def _answers(
    engine: LocalEngine, rows: Sequence[dict[str, Any]], params: SamplingParams, each: int
) -> list[tuple[dict[str, Any], str]]:
    asked = [(number, row, sample) for number, row in enumerate(rows) for sample in range(each)]
    requests = []
    for number, row, sample in asked:
        ids = engine.tokenizer.encode_chat(row["prompt"], add_generation_prompt=True).ids
        seeded = params if params.seed is None else replace(params, seed=1000 * params.seed + number)
        prompt = [engine.tokenizer.bos_id, *ids]
        requests.append(
            Request(id=f"{number}-{sample}", prompt_ids=prompt, params=seeded, sample_index=sample)
        )
    texts = [engine.tokenizer.decode(completion.ids) for completion in engine.generate(requests)]
    return [(row, text) for (_, row, _), text in zip(asked, texts, strict=True)]


def _mean(values: Sequence[float | bool]) -> float | None:
    return sum(values) / len(values) if values else None


@stoppable
def main() -> None:
    command_line(__doc__, run, folder="runs/bench/parity", quick="p = 0.25 with one seed alone")


if __name__ == "__main__":
    main()
