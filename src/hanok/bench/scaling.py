"""Does a sigmoid through the first half of a run of practice tell its end? (ScaleRL, arXiv 2510.13786, in miniature.)

Parity puzzles, from one model that next-token prediction made (p = 0.25), by ScaleRL's recipe and two of its relatives. Reward:
mean of 4 sampled answers to each of 48 inputs that are not practised on (the smallest of those), at 20 or 30 places of a
run. Each is fitted on its first half (`hanok align predict`), and the prediction for its last step compared with what was
measured there. Both lists were written down before the first of their runs was started, the second after the first had been
seen: half of 40 steps is before most of the rise. All runs are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.bench.parity import BITS, pretrained
from hanok.bench.stopped import stoppable
from hanok.errors import InputError
from hanok.reporting import Report, table
from hanok.training.align.config import AlignConfig
from hanok.training.align.predict import predict_run, read_points
from hanok.training.rollouts.run import align_on_rewards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START = (0.25, 1, 160)  # p, seed, steps of pre-training
PROMPTS, HELD_OUT = 256, 48
PRACTICE = AlignConfig(
    prompts_per_step=16, group_size=8, max_new_tokens=BITS + 4, warmup_steps=0, decay_fraction=0.0,
    max_seq_len=64, micro_batch_tokens=4096, max_steps=40, validation_answers=4, checkpoint_every=1000,
    keep_checkpoints=1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chosen:
    method: str
    lr: float
    seed: int
    steps: int = 40

    @property
    def name(self) -> str:
        return f"{self.method}-{self.lr:g}-seed{self.seed}" + (
            f"-{self.steps}steps" if self.steps != 40 else ""
        )

    @property
    def config(self) -> AlignConfig:
        every = 2 if self.steps == 40 else self.steps // 30
        return replace(
            PRACTICE,
            muon_lr=self.lr,
            adamw_lr=self.lr,
            seed=self.seed,
            max_steps=self.steps,
            validate_every=every,
        )


RUNS = (
    Chosen("scalerl", 5e-4, 1), Chosen("grpo", 5e-4, 1), Chosen("scalerl", 5e-4, 2), Chosen("cispo", 5e-4, 1),
    Chosen("scalerl", 7e-4, 1), Chosen("grpo", 7e-4, 2), Chosen("scalerl", 7e-4, 2),
    Chosen("scalerl", 5e-4, 3, 90), Chosen("grpo", 5e-4, 3, 90), Chosen("scalerl", 5e-4, 4, 90),
    Chosen("cispo", 5e-4, 3, 90), Chosen("scalerl", 5e-4, 5, 90), Chosen("grpo", 5e-4, 4, 90),
)  # fmt: skip


def run(*, folder: Path = Path("runs/bench/parity"), quick: bool = False) -> list[dict[str, Any]]:
    """Practice (or go on where an earlier call stopped), predict, compare; `folder/scaling/report.html`.

    Args:
        folder: of `hanok.bench.parity`, whose pre-trained model is used again.
    """
    model, data = pretrained(*START, folder)
    place = folder / "scaling"
    place.mkdir(exist_ok=True)
    prompts = _first(data / "prompts.jsonl", PROMPTS, place / "prompts.jsonl")
    held_out = _first(data / "prompts-validation.jsonl", HELD_OUT, place / "validation.jsonl")
    rows = []
    for one in RUNS[:2] if quick else RUNS:
        align_on_rewards(
            one.method, one.config, model=model, prompts=prompts, rewards=["exact"], out=place / one.name, validation=held_out
        )  # fmt: skip
        rows.append({"run": one.name, **_compared(place / one.name)})
    columns = ("run", "start", "predicted", "from", "to", "measured", "error", "asymptote", "why not")
    cells = [tuple(_shown(row.get(name)) for name in columns) for row in rows]
    table("fitted on the first half, compared at the end", columns, cells)
    errors = [abs(row["error"]) for row in rows if "error" in row]
    if errors:
        print(
            f"{len(errors)} of {len(rows)} runs: median error {statistics.median(errors):.3f}, worst {max(errors):.3f}",
            file=sys.stderr,
        )  # fmt: skip
    report = Report("Predicting the end of practice from its first half")
    report.add_plot("Runs", _figure(place, rows))
    report.add_table("Runs", columns, cells)
    report.add_json({"rows": rows})
    report.write(place)
    return rows


def _compared(out: Path) -> dict[str, Any]:
    """The prediction from the first half; why there is none, where the first half has no curve."""
    start = {"start": read_points(out).start}
    try:
        return start | predict_run(out, share=0.5)
    except InputError as error:
        return start | {"why not": error.message}


def _first(file: Path, count: int, out: Path) -> Path:
    if not out.is_file():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        out.write_text("".join(lines), encoding="utf-8")
    return out


def _figure(place: Path, rows: list[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, row in zip(figure.subplots(2, -(-len(rows) // 2), squeeze=False).flat, rows, strict=False):
        points = read_points(place / row["run"])
        axes.plot(points.steps, points.rewards, ".", markersize=4)
        axes.axvline(points.end / 2, color="grey", linewidth=0.8)
        if "predicted" in row:
            reach = [[row["predicted"] - row["from"]], [row["to"] - row["predicted"]]]
            axes.errorbar(
                [points.end], [row["predicted"]], yerr=reach, fmt="o", color="tab:red", markersize=4
            )
        axes.set_title(row["run"], fontsize=8)
        axes.set_ylim(0.4, 1.05)
    return figure


def _shown(value: Any) -> Any:
    return "" if value is None else round(value, 3) if isinstance(value, float) else value


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/parity"))
    parser.add_argument("--quick", action="store_true", help="the first two runs alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = run(folder=options.folder, quick=options.quick)
    if options.json:
        json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
