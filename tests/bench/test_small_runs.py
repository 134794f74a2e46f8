"""Each benchmark of the engine from end to end on a tiny model, without its peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanok.bench import prefill
from hanok.cli.bench import BENCHMARKS, bench
from hanok.errors import ConfigError
from hanok.kernels.native import native
from hanok.models.config import ModelConfig

needs_kernels = pytest.mark.skipif(native() is None, reason="the native kernels are not built")
TEN_LINE_ENTRIES = Path(__file__).resolve().parents[2] / "benchmarks"


def test_help_names_each_benchmark() -> None:
    for name in BENCHMARKS:
        assert f"* {name}: " in (bench.__doc__ or "")


def test_each_has_a_file() -> None:
    entries = "".join(file.read_text() for file in TEN_LINE_ENTRIES.glob("*.py"))
    for module in BENCHMARKS.values():
        assert f"from {module} import main" in entries


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="prefil"):
        bench("prefil")


@needs_kernels
def test_prefill(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    rows = prefill.run(
        kinds=("int4",), rounds=1, lengths=(600,), folder=tmp_path, shape=tiny_shape, name="tiny", peers=False,
    )  # fmt: skip
    assert [row["case"] for row in rows] == ["prefill/int4/ctx600"]
    assert all(row["ours"] > 0 and row["runs"] == 1 and row["peer"] == "none" for row in rows)
    assert (tmp_path / "prefill" / "report.html").is_file()
