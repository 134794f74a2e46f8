"""Each benchmark of the engine from end to end on a tiny model, without its peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanok.bench import (
    decoding_cost,
    device_side,
    memory,
    on_device,
    prefill,
    serve,
    shrunk,
    small,
    zero_points,
)
from hanok.bench.words import make_chat_model
from hanok.cli.bench import BENCHMARKS, bench
from hanok.errors import ConfigError
from hanok.kernels.native import native
from hanok.models.checkpoint import load_config
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


def test_devices_are_for_decoding() -> None:
    with pytest.raises(ConfigError, match="spec runs on the CPU"):
        bench("spec", device="cuda")
    with pytest.raises(ConfigError, match="gpu"):
        bench("decode", device="gpu")
    with pytest.raises(ConfigError, match="is the CPU here"):
        on_device.run("cpu")


def test_answers_on_a_device(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    work = {"contexts": [20], "streams": [2], "tokens": 3, "repeats": 1}
    rows = on_device.run(
        "cpu-torch", kinds=("bf16",), rounds=1, folder=tmp_path, work=work, shape=tiny_shape, peers=False
    )
    assert [row["case"] for row in rows] == ["device/bf16/ctx20/streams1", "device/bf16/ctx30/streams2"]
    assert all(row["ours"] > 0 and row["peer"] == "none" for row in rows)
    assert (tmp_path / "device" / "report.html").is_file()


def test_longer_contexts_find_nothing_of_shorter_ones(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    """Prompts of more than a block, first alone and then as the beginning of what is asked next."""
    model = make_chat_model(tmp_path, tiny_shape, "tiny")
    settings = {
        "device": "cpu-torch",
        "kind": "float32",
        "threads": 1,
        "contexts": [70, 140],
        "streams": [],
        "tokens": 2,
    }
    found = device_side.measure(model, settings | {"repeats": 1})
    assert [len(seconds) for seconds in found["contexts"].values()] == [1, 1]
    drawn = [
        one
        for n in (70, 140)
        for repeat in range(3)
        for one in device_side.prompts(300, [n] * 4, f"{n} {repeat}")
    ]
    assert len({tuple(one[:8]) for one in drawn}) == len(drawn)


def test_a_context_found_in_the_cache_is_no_measurement(
    tiny_shape: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: one prompt asked twice."""
    monkeypatch.setattr(
        device_side, "prompts", lambda _vocabulary, lengths, _seed: [[*range(n)] for n in lengths]
    )
    model = make_chat_model(tmp_path, tiny_shape, "tiny")
    settings = {
        "device": "cpu-torch",
        "kind": "float32",
        "threads": 1,
        "contexts": [140],
        "streams": [],
        "tokens": 2,
    }
    with pytest.raises(AssertionError):
        device_side.measure(model, settings | {"repeats": 1})


@needs_kernels
def test_prefill(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    rows = prefill.run(
        kinds=("int4",), rounds=1, lengths=(600,), folder=tmp_path, shape=tiny_shape, name="tiny", peers=False,
    )  # fmt: skip
    assert [row["case"] for row in rows] == ["prefill/int4/ctx600"]
    assert all(row["ours"] > 0 and row["runs"] == 1 and row["peer"] == "none" for row in rows)
    assert (tmp_path / "prefill" / "report.html").is_file()


@needs_kernels
def test_what_heads_cost(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    """Heads that say one law and that law without heads draw the same tokens, so their times are of the same work."""
    rows = decoding_cost.run(
        quick=True, rounds=2, folder=tmp_path, sizes=("5m",), shapes={"5m": (tiny_shape, "tiny")}
    )
    assert [row["case"] for row in rows] == ["5m/int4/wall", "5m/int4/processor"]
    assert all(row["ours"] > 0 and row["theirs"] > 0 and row["runs"] == 2 for row in rows)
    assert (tmp_path / "decoding-cost" / "report.html").is_file()


@needs_kernels
def test_memory(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    rows = memory.run(kinds=("int4",), rounds=1, folder=tmp_path, shape=tiny_shape, name="tiny", cache_mib=1)
    by_case = {row["case"]: row for row in rows}
    assert list(by_case) == [
        "memory/int4/loaded",
        "memory/int4/full",
        "start/int4/first",
        "start/int4/further",
    ]
    weights, both = (by_case[f"memory/int4/{when}"]["theirs"] / memory.MOST for when in ("loaded", "full"))
    assert 0.9 < both - weights <= 1.1  # MiB of cache, in whole blocks
    assert by_case["memory/int4/full"]["python_and_torch"] > 100
    further = by_case["start/int4/further"]
    assert further["from_process_start"] > further["ours"] > 0


@needs_kernels
def test_shrunk(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    rows = shrunk.run(quick=True, kinds=("int4",), rounds=1, folder=tmp_path, shape=tiny_shape, name="tiny")
    assert [row["case"] for row in rows] == ["shrunk/int4/ctx64"]
    less, all_of_it = rows[0]["weight_bytes"]
    assert 0 < less < all_of_it
    assert rows[0]["ratio"] > 0
    assert load_config(tmp_path / "tiny-shrunk").mlp_width == 64


@needs_kernels
def test_zero_points(tmp_path: Path) -> None:
    rows = zero_points.run(rounds=1, kinds=("int4",), folder=tmp_path, shape=(64, 96), far=1 << 14)
    assert [row["case"] for row in rows] == [
        f"int4/{height}/{place}" for place in ("cached", "memory") for height in (1, 64)
    ]
    assert all(row["ratio"] > 0 and row["bytes_ratio"] == pytest.approx(5 / 4.5) for row in rows)


@needs_kernels
def test_small(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    shapes: dict[str, tuple[ModelConfig, str]] = dict.fromkeys(("5m", "0.6b"), (tiny_shape, "tiny"))
    rows = small.run(quick=True, kinds=("int8",), rounds=1, folder=tmp_path, shapes=shapes, peers=False)
    assert [row["case"] for row in rows] == ["small/int8", "python/5m/int8", "python/0.6b/int8"]
    assert rows[0]["ours"] > 0
    assert all(0 < row["ours"] < 1 for row in rows[1:])


@needs_kernels
def test_serve(tiny_shape: ModelConfig, tmp_path: Path) -> None:
    rows = serve.run(
        quick=True, kinds=("int8",), rounds=1, folder=tmp_path, shape=tiny_shape, name="tiny", streams=(2, 3), peers=False,
    )  # fmt: skip
    assert [row["case"] for row in rows] == [
        "serve/int8/streams2", "first-token/int8/streams2", "serve/int8/streams3", "first-token/int8/streams3",
    ]  # fmt: skip
    assert all(row["ours"] > 0 for row in rows)
    assert all(row["p95"] >= row["ours"] for row in rows[1::2])
