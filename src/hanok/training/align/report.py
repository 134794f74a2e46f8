"""The page of an alignment run: curves of what to watch, the result, the settings. metrics.jsonl has the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hanok.reporting import Report
from hanok.training.align.config import AlignConfig
from hanok.training.distil.config import DistilConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hanok.training.loop import Trainer

_LAST = 20  # steps that the headline numbers are the means of
_COLUMNS = 3
_SHOWN = (
    "loss", "grad_norm", "reward", "preference.accuracy", "preference.margin", "preference.reward", "preference.logp",
    "rollout.zero_variance", "rollout.tokens", "policy.entropy", "policy.reference_kl", "mismatch.kl", "value.error2",
    "minillm.sampled_kl", "minillm.corpus",
)  # fmt: skip
_PLAIN = ("step", "tokens", "data", "event")


def write_report(
    method: str, config: AlignConfig | DistilConfig, trainer: Trainer[Any], *, add: Callable[[Report], None] = lambda _: None
) -> dict[str, Any]:  # fmt: skip
    """Write `report.html` and `report.json` and return the run's headline numbers. `add`: more for the page."""
    rows = trainer.metrics.rows()
    steps = [row for row in rows if "loss" in row]
    validations = [row for row in rows if any(key.startswith("validation.") for key in row)]
    names = sorted({key for row in steps for key in row if key not in _PLAIN and not key.startswith("time.")})
    summary: dict[str, Any] = {
        "method": method, "steps": trainer.position.step, "tokens": trainer.position.tokens,
        **{name: _mean([row[name] for row in steps[-_LAST:] if name in row]) for name in names},
        **{key: value for row in validations[-1:] for key, value in row.items() if key.startswith("validation.")},
        "seconds": round(trainer.position.seconds, 1),
    }  # fmt: skip
    report = Report(f"Alignment: {method}")
    report.add_table(
        f"Result (training: mean of the last {_LAST} steps)", ("measure", "value"), list(summary.items())
    )
    held_out = sorted({key for row in validations for key in row if key.startswith("validation.")})
    report.add_plot("Training", _curves(steps, {k: v for k, v in _groups(names).items() if k in _SHOWN}))
    report.add_table(
        "Validation", ("step", *(name.removeprefix("validation.") for name in held_out)),
        [(row["step"], *(row.get(name, "") for name in held_out)) for row in validations],
    )  # fmt: skip
    events = [(row["step"], row["event"]) for row in steps if "event" in row]
    if events:
        report.add_table("Bad steps", ("step", "what was done"), events)
    add(report)
    report.add_text("Precision", f"{trainer.plan.precision_reason}; {trainer.plan.threads} threads")
    report.add_table(
        "Settings", ("setting", "value"), [(key, str(value)) for key, value in asdict(config).items()]
    )
    report.add_json({"summary": summary})
    report.write(trainer.metrics.path.parent)
    return summary


def _groups(names: Sequence[str]) -> Mapping[str, list[str]]:
    """One picture a metric, but the two sides of a pair share theirs."""
    groups: dict[str, list[str]] = {}
    for name in names:
        title = name.removesuffix("_chosen").removesuffix("_rejected")
        groups.setdefault(title, []).append(name)
    return groups


def _curves(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> Figure:
    from matplotlib.figure import Figure

    height = -(-len(groups) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.2 * height))
    figure.subplots_adjust(hspace=0.5)
    for place, (title, names) in enumerate(groups.items(), 1):
        axes = figure.add_subplot(height, _COLUMNS, place)
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), linewidth=0.9, label=name.rpartition("_")[2])
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=7)
    return figure


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
