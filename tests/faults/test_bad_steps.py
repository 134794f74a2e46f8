"""Bad steps are skipped, rolled back and logged (F07)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny

from hanok.errors import HanokError, Interrupted
from hanok.training import loop
from hanok.training.objectives import next_token
from hanok.training.run import train


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], factor: float) -> Callable[[], None]:
    """Multiply the loss at these steps (counted by `_accumulate`'s calls of the trainer at that position)."""
    original = loop.Trainer._accumulate

    def spoiled(self: loop.Trainer, sequences: Any, learnt: int) -> float | None:
        loss = original(self, sequences, learnt)
        return loss * factor if loss is not None and self.position.step + 1 in steps else loss

    monkeypatch.setattr(loop.Trainer, "_accumulate", spoiled)
    return lambda: monkeypatch.setattr(loop.Trainer, "_accumulate", original)


def test_f07_bad_steps_are_skipped_rolled_back_and_logged(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {3, 9, 10, 11, 12}, float("nan"))
    config = tiny.tiny_config(max_steps=20, max_skips=3)
    train(config, shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    events = {row["step"]: row["event"] for row in tiny.log_rows(tmp_path / "run") if "event" in row}
    assert events == {
        3: "skipped: loss is nan",
        9: "skipped: loss is nan",
        10: "skipped: loss is nan",
        11: "skipped: loss is nan",
        12: "rolled back to the weights of step 8: loss is nan",
    }
    assert [row["step"] for row in tiny.log_rows(tmp_path / "run") if "loss" in row] == list(range(1, 21))
    page = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(page["Bad steps"]) == 5


def test_f07_a_rollback_survives_a_stop(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {9, 10, 11, 12}, float("inf"))
    config = tiny.tiny_config(max_steps=20)
    train(config, shards=shards, out=tmp_path / "straight", model=tiny.tiny_model())
    original = next_token.next_token_loss
    calls = 0

    def stop_sometimes(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (21, 29):  # inside the tenth step, and soon after the roll-back
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(next_token, "next_token_loss", stop_sometimes)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(config, shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    train(config, shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    tiny.assert_equal_runs(tmp_path / "run", tmp_path / "straight")


def test_f07_it_gives_up(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, set(range(9, 99)), float("nan"))
    config = tiny.tiny_config(max_steps=60, max_skips=1, max_rollbacks=2)
    with pytest.raises(HanokError, match="gave up at step 14: loss is nan"):
        train(config, shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    spoil(monkeypatch, {1, 2}, float("nan"))
    with pytest.raises(HanokError, match="no checkpoint to go back to"):
        train(config, shards=shards, out=tmp_path / "early", model=tiny.tiny_model())


def test_f07_a_spike_is_left_out(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {15}, 5.0)
    config = tiny.tiny_config(max_steps=18, spike_window=10)
    train(config, shards=shards, out=tmp_path / "run", model=tiny.tiny_model())
    (event,) = [row for row in tiny.log_rows(tmp_path / "run") if "event" in row]
    assert event["step"] == 15
    assert "spike" in event["event"]
