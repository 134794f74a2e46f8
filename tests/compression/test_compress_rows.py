"""The table of what every method costs: the models that it makes, and that a row once measured stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hanok.artefacts import open_artefact
from hanok.bench import compress as compress_bench
from hanok.bench import compress_cases, compress_rows
from hanok.bench.compress_cases import CASES, TIMES, Bench, Case, Metrics, by_the_largest, put_in_outliers
from hanok.bench.compress_rows import run
from hanok.compression.fake import turn_inner_inputs
from hanok.compression.search import search
from hanok.compression.settings import CompressConfig
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Block, Decoder
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
FEW = ("rtn-4", "hqq-4-fractional", "half-magnitude", "w4a4-outliers*", "cache-?", "gptq-4-row")


def hidden(model: Decoder) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(20, 60), torch.tensor([0, 40], dtype=torch.int32))[0]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compress_cases, compress_rows):
        monkeypatch.setattr(module, "BASE", replace(compress_cases.BASE, samples=8, length=48, held_out=2))


def test_names_are_of_one_row_each() -> None:
    names = [name for case in CASES for name in case.names]
    assert len(set(names)) == len(names)


def test_outliers_are_the_same_function(small_decoder: Callable[..., Decoder]) -> None:
    model = small_decoder(num_kv_heads=2)
    before, norm = hidden(model), model.get_parameter("layers.0.input_layernorm.weight").clone()
    put_in_outliers(model)
    torch.testing.assert_close(hidden(model), before, atol=1e-5, rtol=1e-4)
    larger = model.get_parameter("layers.0.input_layernorm.weight") / norm
    assert torch.equal(larger.unique(), torch.tensor([1.0, TIMES]))


def test_a_turned_model_is_the_same_function_once_its_inputs_turn(
    model_dir: Path, shards: Path, tmp_path: Path
) -> None:
    turned = load_model(Bench(model_dir, shards, tmp_path).turned(model_dir))
    before = hidden(load_model(model_dir))
    assert not torch.allclose(hidden(turned), before, atol=1e-2)
    for block in turned.layers:
        assert isinstance(block, Block)
        turn_inner_inputs(block)
    torch.testing.assert_close(hidden(turned), before, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("group", [0, 32])
def test_the_papers_rounding(group: int) -> None:
    weight_NK = torch.randn(6, 96, generator=torch.Generator().manual_seed(1))
    found = by_the_largest(weight_NK, bits=3, group=group).unflatten(1, (-1, group or 96))
    scale = weight_NK.unflatten(1, (-1, group or 96)).abs().amax(-1, keepdim=True) / 3
    torch.testing.assert_close(
        found, (weight_NK.view_as(found) / scale).round() * scale, atol=2e-3, rtol=2e-3
    )


def test_rows_stay_and_come_in_seeds(
    model_dir: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def counted(case: Case) -> Case:
        def measure(bench: Bench, seed: int) -> Sequence[Metrics]:
            asked.append((case.name, seed))
            return case.measure(bench, seed)

        return replace(case, measure=measure)

    monkeypatch.setattr(compress_rows, "CASES", [counted(case) for case in CASES])
    rows = {
        row["case"]: row for row in run(model=model_dir, shards=text_file, folder=tmp_path, only=FEW, seeds=2)
    }
    assert rows["gptq-4-row"]["seeds"] == 2
    assert rows["rtn-4"]["seeds"] == 1
    assert rows["rtn-4"]["kl"]["mean"] < rows["rtn-4-head8"]["kl"]["mean"] < rows["rtn-4-head4"]["kl"]["mean"]
    assert rows["w4a4-outliers"]["kl"]["mean"] > 2 * rows["w4a4-outliers-rotated-r4"]["kl"]["mean"] > 0
    assert 0 <= rows["cache-8"]["kl"]["mean"] < rows["cache-4"]["kl"]["mean"]
    assert rows["gptq-4-row"]["kl"]["least"] < rows["gptq-4-row"]["kl"]["largest"]
    asked.clear()
    (tmp_path / "rows" / "gptq-4-row-seed2.json").unlink()
    again = run(model=model_dir, shards=text_file, folder=tmp_path, only=FEW, seeds=2)
    assert asked == [("gptq-4-row", 2)]
    assert json.dumps(again) == json.dumps(list(rows.values()))


def test_rows_of_another_model_are_not_mixed_in(
    model_dir: Path, text_file: Path, small_decoder: Callable[..., Decoder], tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    run(model=model_dir, shards=text_file, folder=folder, only=["rtn-4"], seeds=1)
    other = tmp_path / "other"
    other.mkdir()
    save_model(small_decoder(num_kv_heads=1), other)
    Tokenizer.load(model_dir).save(other)
    with pytest.raises(ConfigError, match="another model"):
        run(model=other, shards=text_file, folder=folder, only=["rtn-4"], seeds=1)
    text_file2 = tmp_path / "other.txt"
    text_file2.write_text(text_file.read_text() * 2)
    with pytest.raises(ConfigError, match="other data"):
        run(model=model_dir, shards=text_file2, folder=folder, only=["rtn-4"], seeds=1)


def test_beside_peers_a_plan_is_found_once(
    model_dir: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def counted(*args: object, **more: object) -> object:
        searched.append(args[2])
        return search(*args, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(compress_bench, "search", counted)
    config, out = CompressConfig(samples=6, length=48, held_out=2), tmp_path / "ours"

    def made(**changes: int) -> str:
        where = compress_bench._made(("rtn",), replace(config, **changes), 6.0, model_dir, text_file, out)
        return open_artefact(where).hash

    first = made()
    assert made() == first
    assert searched == [6.0]
    assert made(seed=2) != first
    assert searched == [6.0], "the plan is that of the first seed"
    assert made(samples=7) != first
    assert searched == [6.0, 6.0]
