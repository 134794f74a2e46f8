"""Predictions from the log of a run: which points, how many, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hanok.errors import InputError
from hanok.training.align.predict import predict_run, read_points
from hanok.training.scaling import Curve

CURVE = Curve(0.3, 0.9, 2.0, 40.0)


def write_run(
    run: Path, *, steps: int, total: int = 200, every: int = 0, noise: float = 0.01, answers: int = 4
) -> Path:
    """As `hanok align` leaves it after so many steps."""
    rng = np.random.default_rng(0)
    run.mkdir()
    plan = {"schedule": {"total_steps": total}, "identity": {"config": {"validation_answers": answers}}}
    (run / "plan.json").write_text(json.dumps(plan))
    rows = []
    for step in range(1, steps + 1):
        reward = CURVE.at(np.array([step - 1.0 + 1e-9]))[0] + noise * rng.standard_normal() * (step > 1)
        rows.append({"step": step, "loss": 0.0, "reward": reward})
        if every and step % every == 0:
            rows.append({"step": step, "validation.reward": CURVE.at(np.array([float(step)]))[0]})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text + '{"step": 9')  # being written
    return run


@pytest.mark.usefixtures("drawn_pages")
def test_a_running_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=100)
    points = read_points(run)
    assert points.metric == "reward"
    assert points.start == pytest.approx(0.3)
    assert len(points.steps) == 12
    found = predict_run(run)
    assert found["predicted"] == pytest.approx(CURVE.at(np.array([200.0]))[0], abs=0.03)
    assert found["from"] < found["predicted"] < found["to"]
    assert "measured" not in found
    report = json.loads((run / "prediction" / "report.json").read_text())
    assert report["summary"]["steps seen"] == found["steps seen"]
    assert (run / "prediction" / "report.html").stat().st_size > 10_000


def test_half_of_a_finished_run_by_its_validation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=200, every=10)
    found = predict_run(run, share=0.5, out=tmp_path / "page")
    assert found["metric"] == "validation.reward"
    assert found["points"] == 10
    assert abs(found["error"]) < 1e-3
    assert found["measured"] == pytest.approx(CURVE.at(np.array([200.0]))[0])
    assert (tmp_path / "page" / "report.html").is_file()


def test_the_likeliest_answers_are_no_points(tmp_path: Path) -> None:
    """They score on another scale than the sampled ones of the first roll-out, from which the curve starts."""
    points = read_points(write_run(tmp_path / "run", steps=200, every=10, answers=0))
    assert points.metric == "reward"
    assert len(points.steps) == 25


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        predict_run(tmp_path)
    with pytest.raises(InputError, match="too few"):
        predict_run(write_run(tmp_path / "early", steps=20))
