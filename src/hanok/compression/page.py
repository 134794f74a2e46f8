"""The report of a compression: what it cost, where, and beside what else that was tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hanok.compression.differ import add_predictions, worst_predictions
from hanok.compression.measure import Distance
from hanok.compression.settings import Plan
from hanok.compression.sizes import Sizes
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOKENS = 20  # rows of the table of predictions


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting that was measured. bits: a weight of the whole model, as the engine holds it."""

    name: str
    bits: float
    kl: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class Context:
    """What the report says beside the result's own numbers. speed: tokens a second of a model directory's decoding, here."""

    tried: Sequence[Tried] = ()
    speed: Callable[[Path], float] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """alone: KL of each layer were it the only one; empty where that was not measured. speeds: before and after."""

    distance: Distance
    sizes: Sizes
    alone: list[float]
    speeds: tuple[float, float] | None
    windows: list[np.ndarray]

    def metrics(self) -> dict[str, float]:
        found = {**self.sizes.metrics(), **self.distance.metrics()}
        if self.speeds is not None:
            found |= {
                "tokens_per_second_before": self.speeds[0],
                "tokens_per_second_after": self.speeds[1],
            }
        return found


def write_page(
    plan: Plan, measured: Measured, directory: Path, *, tokenizer: Tokenizer, plain: list[str],
    few: Sequence[tuple[int, int, int]] = (), context: Context,
) -> None:  # fmt: skip
    config = plan.config
    groups = f"in groups of {config.group}" if config.group else "with one scale a row"
    what = "pruned" if plan.method == "none" else f"{plan.method}, {config.bits} bits {groups}"
    report = Report(f"Compressed: {what}")
    report.add_table("What it cost", ("measure", "value"), list(measured.metrics().items()))
    notes = [*context.notes, *_notes(plan)]
    if notes:
        report.add_text("To know", "\n".join(notes))
    if context.tried:
        report.add_plot("All settings that were tried", pareto(context.tried, _own(plan, measured)))
        rows = [(t.name, t.bits, t.kl, t.perplexity) for t in context.tried]
        report.add_table(
            "All settings that were tried, in numbers", ("setting", "bits", "kl", "perplexity"), rows
        )
    _add_layers(report, plan, measured)
    worst = worst_predictions(measured.distance, measured.windows, tokenizer, _TOKENS)
    add_predictions(report, worst)
    report.add_table("Settings", ("setting", "value"), list(dataclasses.asdict(config).items()))
    if plan.widths:
        report.add_table("Maps of another width", ("map", "bits"), sorted(plan.widths.items()))
    if few:
        report.add_table(
            "Experts that met fewer rows than they have inputs, rounded to the nearest",
            ("layer", "expert", "rows"),
            few,
        )
    if plain:
        report.add_text("Maps that stayed as they are", "\n".join(plain))
    report.write(directory)


def _notes(plan: Plan) -> list[str]:
    """What a reader might otherwise take for granted."""
    config, notes = plan.config, []
    if plan.method != "none" and config.zeros:
        notes.append(
            "The codes have zero points: the engine holds one in 16 bits for 32 weights, as it does a scale, so a weight takes "
            "half a bit more."
        )
    if plan.method != "none" and config.bits not in (4, 8):
        notes.append(
            f"Codes of {config.bits} bits lie in words of {config.words}: on disk and in the engine they take as much "
            f"room as {config.words} bits do."
        )
    if plan.method != "none" and config.group != 32:
        notes.append("The engine holds one scale for 32 inputs: larger groups save room on disk alone.")
    if config.prune != "none":
        notes.append(
            "Single weights that are 0 are stored and multiplied like others: pruning of this kind saves no time here."
        )
    if config.rotate:
        notes.append("The model is rotated: hidden vectors are not those of the original, logits are.")
    return notes


def _add_layers(report: Report, plan: Plan, measured: Measured) -> None:
    if plan.config.rotate:
        return
    drift, alone = measured.distance.drift_L, measured.alone
    columns = ("layer", "drift behind it", *(("kl of this layer alone",) if alone else ()))
    order = sorted(range(len(drift)), key=lambda n: -(alone or drift)[n])
    rows = [(n, drift[n], *((alone[n],) if alone else ())) for n in order]
    report.add_plot("Layer by layer", _layer_plot(drift, alone))
    report.add_table("Layers, the worst first", columns, rows)


def pareto(tried: Sequence[Tried], own: Tried) -> Figure:
    """KL by bits; the line joins what nothing else beats in both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5))
    axes = figure.subplots()
    points = [*tried, own]
    best, front = float("inf"), []
    for point in sorted(points, key=lambda t: (t.bits, t.kl)):
        if point.kl < best:
            best = point.kl
            front.append(point)
    axes.plot([p.bits for p in front], [p.kl for p in front], color="#2f6f5e", linewidth=1.2, zorder=1)
    axes.scatter([p.bits for p in tried], [p.kl for p in tried], s=28, color="#8a8f8b", zorder=2)
    axes.scatter(
        [own.bits], [own.kl], s=90, marker="*", color="#b5502f", zorder=3, label=f"chosen: {own.name}"
    )
    axes.set_yscale("log")
    for number, point in enumerate(sorted(tried, key=lambda t: (round(t.bits, 1), t.kl))):
        axes.annotate(
            point.name,
            (point.bits, point.kl),
            xytext=(6, (-9, 5)[number % 2]),
            textcoords="offset points",
            fontsize=7,
        )
    axes.margins(x=0.15)
    axes.set_xlabel("bits a weight in the engine, embedding and head counted")
    axes.set_ylabel("KL to the original, nats a token")
    axes.legend(loc="upper right", fontsize=8)
    axes.grid(visible=True, which="both", alpha=0.25)
    return figure


def _layer_plot(drift: Sequence[float], alone: Sequence[float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 2.8))
    axes = figure.subplots()
    places = range(len(drift))
    if alone:
        axes.bar(places, alone, color="#7fc3ae", label="KL of this layer alone")
        axes.set_ylabel("KL, nats a token")
        axes = axes.twinx()
    axes.plot(places, drift, color="#b5502f", marker="o", markersize=3, label="drift of hidden vectors")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("drift")
    figure.axes[0].set_xlabel("layer")
    figure.legend(loc="upper center", ncols=2, fontsize=8)
    return figure


def _own(plan: Plan, measured: Measured) -> Tried:
    name = f"{plan.method} {plan.config.bits}" + (" mixed" if plan.widths else "")
    distance = measured.distance
    return Tried(name, measured.sizes.engine_bits, distance.kl, distance.perplexity_after)
