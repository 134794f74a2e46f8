"""The rows that benchmarks hand over, by hand."""

from __future__ import annotations

import json
from pathlib import Path

from hanok.bench.outcome import compare, present, spread


def test_more_is_better() -> None:
    row = compare(
        "a", "tokens a second", [10.0, 30.0, 20.0], {"slow": [4.0, 5.0, 6.0], "quick": [8.0, 9.0, 16.0]}
    )
    assert (row["ours"], row["peer"], row["theirs"], row["ratio"]) == (20.0, "quick", 9.0, round(20 / 9, 2))
    assert (row["runs"], row["spread"]) == (3, 1.0)
    assert row["peers"] == {"slow": {"median": 5.0, "spread": 0.4}, "quick": {"median": 9.0, "spread": 0.889}}


def test_less_is_better() -> None:
    row = compare("a", "seconds", [2.0], {"slow": [9.0], "quick": [3.0]}, smaller=True)
    assert (row["peer"], row["ratio"]) == ("quick", 1.5)


def test_without_peers() -> None:
    row = compare("a", "seconds", [2.0], {}, smaller=True, note="kept")
    assert (row["peer"], row["theirs"], row["ratio"], row["peers"], row["note"]) == (
        "none",
        None,
        None,
        {},
        "kept",
    )


def test_spread_of_nothing() -> None:
    assert spread([0.0, 0.0]) == 0.0


def test_page(tmp_path: Path) -> None:
    rows = [compare("first", "tokens", [3.0], {"peer <1>": [2.0]}), compare("second", "tokens", [3.0], {})]
    present("Speeds", rows, tmp_path / "page", absent={"other": "not installed"})
    found = json.loads((tmp_path / "page" / "report.json").read_text())
    assert found["rows"] == rows
    assert found["absent"] == {"other": "not installed"}
    assert found["machine"]["cores"] > 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "peer &lt;1&gt;" in page
    assert "<svg" in page
