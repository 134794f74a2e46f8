"""The study of learned decoding: what is chosen on one split is reported on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanok.bench import autodeco
from hanok.bench.autodeco import Exam, Mark, contest, fixed_ways

CHOOSING, TESTING = Exam([], []), Exam([], [])
BEST = {"temperature": 0.9, "top_p": 0.95}


class _NoEngine:
    def __init__(self, model: Path) -> None:
        self.model = model

    def close(self) -> None: ...


def _mark(engine: _NoEngine, exam: Exam, params: dict[str, Any]) -> Mark:
    """On the choosing split one setting of the grid, one hotter one and a scale of 1.5 are best; on the other the hottest are."""
    if params == {"temperature": 0.0}:
        return Mark(1.0, 0.1, 1.0)
    if "temperature_scale" in params or not params:
        scale = params.get("temperature_scale", 1.0)
        return Mark(0.9, 0.5 - abs(scale - 1.5) if exam is CHOOSING else scale / 4, 0.5)
    if exam is TESTING:
        return Mark(0.8, params["temperature"] / 10, 0.5)
    told = {name: params[name] for name in BEST}
    hotter = told == {"temperature": 1.8, "top_p": 0.8}
    return Mark(0.995 if params["temperature"] == 0.3 else 0.5, 0.6 if told == BEST or hotter else 0.2, 0.5)


@pytest.fixture(autouse=True)
def without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autodeco, "LocalEngine", _NoEngine)
    monkeypatch.setattr(autodeco, "mark", _mark)


def test_fixed_settings_are_chosen_on_their_own_split() -> None:
    marks = fixed_ways(Path("model"), CHOOSING, TESTING)
    assert {name: (mark.facts, mark.distinct) for name, mark in marks.items()} == {
        "greedy": (1.0, 0.1),
        "best fixed, T = 0.9, top-p = 0.95": (0.8, 0.09),
        "best fixed within a point of greedy's facts, T = 0.3, top-p = 0.8": (0.8, 0.03),
        "best hotter than the grid, T = 1.8, top-p = 0.8": (0.8, 0.18),
    }


def test_so_is_the_scale_of_the_heads() -> None:
    fixed = {"greedy": Mark(1.0, 0.1, 1.0)}
    rows = contest(Path("heads"), CHOOSING, TESTING, fixed, seed=0)
    scores = {row["case"]: (row["ours"], row["theirs"]) for row in rows if row["metric"] == "score"}
    assert scores == {"heads": (0.9 * 0.25, 0.1), "heads x 1.5": (0.9 * 1.5 / 4, 0.1)}
