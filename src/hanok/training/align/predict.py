"""Where will this run of practice end? A curve through its log so far, while it runs or behind it.

Points are rewards of the validation where its answers are sampled as those of the roll-outs are (`validation_answers`); where
they are the likeliest ones, which score on another scale, or too few, means of the roll-outs' own rewards over equal stretches.
The first roll-out was drawn before anything was learnt: its reward is R0.
Compute is counted in steps, which for practice are equal numbers of prompts and answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hanok.errors import InputError
from hanok.reporting import Report
from hanok.training.metrics import MetricsLog
from hanok.training.plan import PLAN_FILE
from hanok.training.scaling import Prediction, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALIDATION, PRACTICE = "validation.reward", "reward"
_STRETCHES = 24
_FEWEST = 6


@dataclass(frozen=True, slots=True)
class Points:
    """Args: start: reward before training. metric: of which the points are. end: steps of the whole run."""

    metric: str
    start: float
    steps: list[float]
    rewards: list[float]
    end: int


def read_points(run: Path) -> Points:
    """From `plan.json` and `metrics.jsonl` of a run of `hanok align`, finished or not.

    Raises:
        InputError: no such run, or its length or first roll-out is not known yet.
    """
    if not (run / PLAN_FILE).is_file() or not (run / "metrics.jsonl").is_file():
        raise InputError(
            f"{run} holds no run of hanok align", remedy="name the directory given to it as --out"
        )
    plan = json.loads((run / PLAN_FILE).read_text(encoding="utf-8"))
    end, sampled = (
        plan["schedule"]["total_steps"],
        plan["identity"]["config"].get("validation_answers", 0) > 0,
    )
    rows = MetricsLog(run / "metrics.jsonl").rows()
    practice = [(row["step"], row[PRACTICE]) for row in rows if PRACTICE in row]
    if end is None or not practice:
        raise InputError(f"{run}: nothing to predict from yet", remedy="wait for its first steps")
    held_out = [(row["step"], row[VALIDATION]) for row in rows if VALIDATION in row and sampled]
    metric, found = (
        (VALIDATION, held_out) if len(held_out) >= _FEWEST else (PRACTICE, _stretches(practice[1:], end))
    )
    return Points(metric, practice[0][1], [float(s) for s, _ in found], [float(r) for _, r in found], end)


def predict_run(
    run: Path, *, share: float = 1.0, ceiling: float = 1.0, out: Path | None = None
) -> dict[str, Any]:
    """The reward at the end of the run from the points within the first `share` of it; `out/report.html` and `.json`.

    Args:
        ceiling: the largest reward there is.
        out: default: `run/prediction`.

    Raises:
        InputError: too few points, or no rise to fit yet.
    """
    points = read_points(run)
    seen = [place for place, step in enumerate(points.steps) if step <= share * points.end]
    found = predict(
        [points.steps[place] for place in seen], [points.rewards[place] for place in seen], start=points.start,
        at=points.end, ceiling=ceiling,
    )  # fmt: skip
    summary = _summary(points, found, len(seen))
    report = Report(f"Prediction of {run.name}")
    report.add_table("At the end", ("measure", "value"), list(summary.items()))
    report.add_plot("Curve", _figure(points, found, len(seen)))
    report.add_table("Points", ("step", points.metric), list(zip(points.steps, points.rewards, strict=True)))
    report.add_json({"summary": summary, "curve": asdict(found.fit.curve)})
    page = out or run / "prediction"
    page.mkdir(parents=True, exist_ok=True)
    report.write(page)
    return summary


def _summary(points: Points, found: Prediction, seen: int) -> dict[str, Any]:
    fit = found.fit
    last = points.steps[seen - 1]
    summary: dict[str, Any] = {
        "metric": points.metric, "points": seen, "steps seen": int(last), "steps of the run": points.end,
        "predicted": found.reward, "from": found.low, "to": found.high, "asymptote": fit.curve.asymptote,
        "asymptote, standard error": fit.spread, "efficiency": fit.curve.efficiency,
        "half of the gain at step": fit.curve.midpoint, "unexplained": fit.error,
        "beyond half of the gain": fit.past_midpoint,
    }  # fmt: skip
    if points.steps[-1] == points.end and last < points.end:
        summary |= {"measured": points.rewards[-1], "error": found.reward - points.rewards[-1]}
    return summary


def _stretches(rows: Sequence[tuple[int, float]], end: int) -> list[tuple[float, float]]:
    """Means over equal stretches of steps; one that is not through yet is left out."""
    width = max(1, end // _STRETCHES)
    parts: dict[int, list[tuple[int, float]]] = {}
    for step, reward in rows:
        parts.setdefault((step - 1) // width, []).append((step, reward))
    last = rows[-1][0] if rows else 0
    return [
        (float(np.mean([s for s, _ in some])), float(np.mean([r for _, r in some])))
        for number, some in sorted(parts.items())
        if (number + 1) * width <= last or last == end
    ]


def _figure(points: Points, found: Prediction, seen: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    line = np.linspace(points.end / 200, points.end, 200)
    last = points.steps[seen - 1]
    axes.scatter(points.steps[:seen], points.rewards[:seen], s=14, label="fitted")
    if seen < len(points.steps):
        axes.scatter(points.steps[seen:], points.rewards[seen:], s=14, color="tab:green", label="left out")
    for part, style in ((line <= last, "-"), (line > last, "--")):
        axes.plot(line[part], found.fit.curve.at(line[part]), style, color="tab:orange")
    reach = [[found.reward - found.low], [found.high - found.reward]]
    axes.errorbar(
        [found.at], [found.reward], yerr=reach, fmt="o", color="tab:red", label="prediction, 9 in 10"
    )
    axes.set(xlabel="steps", ylabel=points.metric)
    axes.legend()
    return figure
