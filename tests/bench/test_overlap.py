"""The comparison of overlapped practice with practice in turn, in small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hanok.bench import overlap


def test_rates_are_of_the_updates_behind_the_first() -> None:
    rows = [{"step": step, "time.seconds": 10.0 + 2 * step, "time.learner_idle": 0.5} for step in range(1, 9)]
    rows[0]["time.seconds"] = 0.0  # the first ones build caches
    assert overlap._rate(rows) == pytest.approx(0.5)
    assert overlap._idle([{**row, "time.generator_idle": 0.1} for row in rows]) == pytest.approx((0.5, 0.1))
    assert overlap._idle([{"step": 1}] * 5) != (0.0, 0.0)  # in turn nothing is known


def test_both_modes_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(overlap.MODEL, hidden_size=32, num_layers=1, pattern=("gqa",), num_heads=2)
    monkeypatch.setattr(overlap, "MODEL", small)
    quick = replace(overlap.PRACTICE, prompts_per_step=2, group_size=2, max_new_tokens=4, max_steps=5)
    monkeypatch.setattr(overlap, "PRACTICE", quick)
    monkeypatch.setattr(overlap, "AHEAD", (1,))
    monkeypatch.setattr(overlap, "WAITS", 0.001)
    rows = overlap.run(folder=tmp_path, rounds=1)
    assert [row["case"] for row in rows] == [
        "overlap/quick reward/1 ahead", "overlap/reward that waits/1 ahead",
    ]  # fmt: skip
    assert all(row["ours"] > 0 and row["theirs"] > 0 and row["peer"] == "in turn" for row in rows)
    assert all(0 <= row["idle"][side] <= 1 for row in rows for side in ("learner", "generator"))
    assert (tmp_path / "report.html").is_file()
