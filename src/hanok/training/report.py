"""The page of a training run: its curves, its result, its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.reporting import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hanok.training.loop import Trainer


def write_report(rows: Sequence[dict[str, Any]], trainer: Trainer, out: Path) -> dict[str, Any]:
    """Write `report.html` and `report.json` into `out` and return the run's headline numbers."""
    steps = [row for row in rows if "loss" in row]
    validations = [row for row in rows if any(key.startswith("validation.") for key in row)]
    position = trainer.position
    summary: dict[str, Any] = {
        "parameters": sum(
            p.numel() for name, p in trainer.decoder.named_parameters() if ".adapters." not in name
        ),
        "trained_parameters": sum(p.numel() for p in trainer.decoder.parameters() if p.requires_grad),
        "steps": position.step,
        "tokens": position.tokens,
        "train_loss": _mean([row["loss"] for row in steps[-20:]]),
        **{k: v for row in validations[-1:] for k, v in row.items() if k.startswith("validation.")},
        "seconds": round(position.seconds, 1),
        "tokens_per_second": round(position.tokens / max(position.seconds, 1e-9), 1),
    }
    report = Report("Training")
    report.add_table("Result", ("measure", "value"), list(summary.items()))
    report.add_plot("Loss", _loss_figure(steps, validations))
    events = [(row["step"], row["event"]) for row in steps if "event" in row]
    if events:
        report.add_table("Bad steps", ("step", "what was done"), events)
    report.add_table(
        "Validation",
        ("step", "measure", "value"),
        [(r["step"], k, v) for r in validations for k, v in r.items() if k.startswith("validation.")],
    )
    report.add_text("Precision", f"{trainer.plan.precision_reason}; {trainer.plan.threads} threads")
    report.add_table(
        "Settings", ("setting", "value"), [(k, str(v)) for k, v in asdict(trainer.config).items()]
    )
    report.add_json({"summary": summary})
    report.write(out)
    return summary


def _loss_figure(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    axes.plot([r["tokens"] for r in steps], [r["loss"] for r in steps], linewidth=0.8, label="training")
    tokens_at = {row["step"]: row["tokens"] for row in steps}
    for name in sorted({key for row in validations for key in row if key.endswith(".loss")}):
        points = [(tokens_at.get(r["step"], 0), r[name]) for r in validations if name in r]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.removesuffix(".loss"))
    axes.set_xlabel("tokens")
    axes.set_ylabel("nats a token")
    axes.grid(alpha=0.3)
    if steps:
        axes.legend()
        rate = axes.twinx()
        rate.plot([r["tokens"] for r in steps], [r["lr"] for r in steps], color="0.6", linewidth=0.8)
        rate.set_ylabel("learning rate", color="0.5")
    return figure


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
