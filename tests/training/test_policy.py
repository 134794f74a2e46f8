"""Bad steps: skip, roll back, stop; and the log that resuming cuts."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from hanok.training.config import TrainConfig
from hanok.training.metrics import MetricsLog
from hanok.training.policy import BadStepPolicy


def policy(**changes: object) -> BadStepPolicy:
    return BadStepPolicy(TrainConfig(max_skips=2, max_rollbacks=1, spike_window=10, **changes))  # type: ignore[arg-type]


def test_skips_then_rolls_back_then_stops() -> None:
    one = policy()
    verdicts = [one.judge(math.nan, 1.0)[0] for _ in range(6)]
    assert verdicts == ["skip", "skip", "roll back", "skip", "skip", "stop"]


def test_a_good_step_ends_a_row_of_bad_ones() -> None:
    one = policy()
    verdicts = [one.judge(loss, 1.0)[0] for loss in (math.inf, math.inf, 2.0, math.inf, math.inf, 2.0)]
    assert verdicts == ["skip", "skip", "good", "skip", "skip", "good"]


def test_a_gradient_that_is_not_finite_is_bad() -> None:
    assert policy().judge(1.0, math.nan) == ("skip", "gradient norm is nan")


def test_spikes_need_a_history_and_can_be_switched_off() -> None:
    one, off = policy(), policy(spike_ratio=0.0)
    assert one.judge(50.0, 1.0)[0] == "good"
    one = policy()
    for each in (one, off):
        for _ in range(10):
            assert each.judge(2.0, 1.0)[0] == "good"
    assert one.judge(4.5, 1.0) == ("skip", "loss 4.500 is a spike against 2.000")
    assert one.judge(3.9, 1.0)[0] == "good"
    assert off.judge(4.5, 1.0)[0] == "good"


def test_state_goes_through_json() -> None:
    one, two = policy(), policy()
    for loss in (0.1, 0.7, math.nan, 0.3):
        one.judge(loss, 1.0)
    two.restore(json.loads(json.dumps(one.state())))
    losses = [math.nan, math.nan, 0.2, math.nan]
    assert [one.judge(x, 1.0) for x in losses] == [two.judge(x, 1.0) for x in losses]


def test_the_log_is_cut_at_the_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 7):
        metrics.write({"step": step, "loss": 1.0 / step})
        if step == 4:
            metrics.write({"step": 4, "validation.text.loss": 0.5})
    with metrics.path.open("a") as file:
        file.write('{"step": 7, "lo')
    metrics.cut_to(4)
    rows = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4]
    with caplog.at_level(logging.WARNING, logger="hanok"):
        metrics.cut_to(4)
        assert not caplog.records
        metrics.cut_to(5)
    assert "4 of 5" in caplog.text
