"""From a budget to a plan, and what the command makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hanok.cli import _run
from hanok.compression import measure
from hanok.compression import search as room
from hanok.compression.measure import compare, layer_distances, walked
from hanok.compression.search import bits_of_target, bits_that_run, bytes_of, mean_bits, rate_of
from hanok.compression.sensitivity import ENDS, NARROW, SCALE, WIDE, Unit, allot, sensitivities
from hanok.compression.settings import CompressConfig, Plan
from hanok.compression.texts import read_texts
from hanok.errors import ConfigError
from hanok.kernels.formats import quantise
from hanok.models.checkpoint import load_head_bits, load_model
from hanok.models.coded import CodedParameter
from hanok.models.decoder import Decoder

pytestmark = pytest.mark.filterwarnings("ignore")
UNITS = [Unit(("a", "b"), 100, 1.0), Unit(("c",), 100, 3.0), Unit((ENDS,), 200, 4.0)]
FEW = ["--samples", "20", "--length", "48", "--held-out", "2"]


def windows() -> list[np.ndarray]:
    return [np.arange(20, 60), np.arange(90, 120)]


def test_wide_codes_go_where_they_take_most_away() -> None:
    assert set(allot(UNITS, 4.5).values()) == {4}
    assert allot(UNITS, 5.5) == {"a": 4, "b": 4, "c": 8, ENDS: 4}
    assert allot(UNITS, 7.5) == {"a": 4, "b": 4, "c": 8, ENDS: 8}
    assert set(allot(UNITS, 8.5).values()) == {8}
    with pytest.raises(ConfigError, match=r"4\.5"):
        allot(UNITS, 4.0)


def test_zero_points_cost_their_part() -> None:
    """Half a bit for a weight of the layers; embedding and head have none."""
    assert set(allot(UNITS, 4.75, 1.0).values()) == {4}
    with pytest.raises(ConfigError, match=r"4\.75 .* zero points"):
        allot(UNITS, 4.7, 1.0)
    assert allot(UNITS, 5.75, 1.0) == {"a": 4, "b": 4, "c": 8, ENDS: 4}
    plan = Plan("rtn", CompressConfig(zeros=True, head_bits=8), {"c": 8})
    assert mean_bits(UNITS, plan) == pytest.approx((100 * 5 + 100 * 9 + 200 * 8.5) / 400)
    plan = Plan("rtn", CompressConfig(head_bits=8), {"c": 8})
    assert mean_bits(UNITS, plan) == pytest.approx((100 * 4.5 + 100 * 8.5 + 200 * 8.5) / 400)


def test_what_fits_takes_away_the_most_together() -> None:
    """A small group that is dear for its size must not keep out a large one that is worth more than all small ones."""
    ends, small = Unit((ENDS,), 200, 4.0), Unit(("c",), 100, 2.5)
    assert allot([small, ends], 7.3) == {"c": 4, ENDS: 8}
    generator = np.random.default_rng(3)
    for _ in range(20):
        units = [
            Unit((f"m{n}",), int(generator.integers(1, 40)) * 64, generator.normal(1.0)) for n in range(9)
        ]
        total, share = sum(unit.weights for unit in units), generator.uniform()
        sets = [[unit for n, unit in enumerate(units) if mask >> n & 1] for mask in range(1 << 9)]
        most = max(
            sum(unit.kl for unit in one) for one in sets if sum(unit.weights for unit in one) <= share * total
        )
        widths = allot(units, NARROW + SCALE + (WIDE - NARROW) * share)
        chosen = [unit for unit in units if widths[unit.names[0]] == WIDE]
        assert sum(unit.weights for unit in chosen) <= share * total * (1 + 1e-5)
        assert sum(unit.kl for unit in chosen) == pytest.approx(most)


def test_a_group_costs_what_a_model_with_it_rounded_is_away(small_decoder: Callable[..., Decoder]) -> None:
    original = small_decoder(num_kv_heads=2)
    units = sensitivities(original, windows(), CompressConfig())
    assert len(units) == 2 * 4 + 1
    assert sum(unit.weights for unit in units) == sum(
        p.numel() for p in original.parameters() if p.dim() == 2
    )
    chosen = next(unit for unit in units if unit.names[0] == "layers.1.mlp.gate_proj")
    made = small_decoder(num_kv_heads=2)
    for name in chosen.names:
        weight = made.get_submodule(name).get_parameter("weight")
        weight.copy_(quantise(weight, 4).dequantised())
    assert compare(original, made, windows()).kl == pytest.approx(chosen.kl, rel=1e-4)
    assert layer_distances(original, made, windows()) == pytest.approx([0.0, chosen.kl], rel=1e-4, abs=1e-7)
    ends = compare(original, small_decoder(num_kv_heads=2), windows(), head_bits=4)
    assert ends.kl == pytest.approx(units[-1].kl, rel=1e-4)
    again = sensitivities(original, windows(), CompressConfig())
    assert [unit.kl for unit in again] == pytest.approx([unit.kl for unit in units]), "nothing stayed rounded"


def test_words_for_budgets() -> None:
    assert bits_of_target("4.5 bits") == bits_of_target("4.5") == 4.5
    assert bytes_of("2GiB") == 2 << 30
    assert rate_of("30tok/s") == rate_of("30") == 30
    for read, bad in ((bits_of_target, "few"), (bytes_of, "2"), (rate_of, "fast")):
        with pytest.raises(ConfigError):
            read(bad)


def test_a_speed_is_a_width_between_what_was_measured() -> None:
    rates = {"int8": 20.0, "int4": 40.0}

    def speed(_: Path, weights: room.Weights) -> float:
        return rates[weights]

    assert bits_that_run(Path(), 15, speed) == 8.5
    assert bits_that_run(Path(), 40, speed) == 4.5
    assert 4.5 < bits_that_run(Path(), 30, speed) < 6.5
    with pytest.raises(ConfigError, match=r"40\.0 tokens"):
        bits_that_run(Path(), 50, speed)


def test_the_command_meets_a_budget(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["compress", str(model_dir), "--data", str(text_file), "--out", str(out), *FEW]
    assert _run([*words, "--target", "6 bits", "--measure-speed"]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    cost = {row["measure"]: row["value"] for row in report["What it cost"]}
    assert 5.0 < cost["bits_a_weight_in_the_engine"] <= 6.0
    assert cost["tokens_per_second_after"] > 0
    tried = {row["setting"]: row for row in report["All settings that were tried, in numbers"]}
    assert {"rtn 8", "rtn 4", "hqq 4", "gptq 4", "awq 4"} <= tried.keys()
    assert cost["kl"] < min(tried[f"{method} 4"]["kl"] for method in ("rtn", "hqq", "gptq", "awq"))
    model = load_model(out, dtype="stored")
    widths = {p.stored.bits for p in model.parameters() if isinstance(p, CodedParameter)}
    assert widths == {4, 8} or load_head_bits(out) == 8
    assert not list(tmp_path.glob(".*")), "what was tried is cleared"
    assert "<svg" in (out / "report.html").read_text(encoding="utf-8")


def test_the_command_meets_a_budget_with_zero_points(
    model_dir: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["compress", str(model_dir), "--data", str(text_file), "--out", str(out), *FEW]
    assert _run([*words, "--target", "6 bits", "--method", "gptq", "--zeros"]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    cost = {row["measure"]: row["value"] for row in report["What it cost"]}
    assert 5.0 < cost["bits_a_weight_in_the_engine"] <= 6.0
    model = load_model(out, dtype="stored")
    stored = [p.stored for p in model.parameters() if isinstance(p, CodedParameter)]
    assert len(stored) == 14
    assert all(one.zeros_NG is not None for one in stored)


def test_budgets_that_cannot_be(
    model_dir: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(model_dir), "--data", str(text_file), "--out", str(tmp_path / "out"), *FEW]
    assert _run([*words, "--target", "3 bits", "--method", "rtn"]) == 2
    assert "4.5" in capsys.readouterr().err
    assert _run([*words, "--target", "5", "--fit", "1MiB"]) == 2
    assert _run([*words, "--fit", "1KiB"]) == 2
    assert not (tmp_path / "out").exists()


def test_where_two_models_differ(
    model_dir: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = tmp_path / "narrow"
    words = ["--data", str(text_file)]
    assert (
        _run(
            ["compress", str(model_dir), *words, "--out", str(narrow), "--method", "rtn", "--bits", "2", *FEW]
        )
        == 0
    )
    capsys.readouterr()
    out = tmp_path / "report"
    assert _run(["eval", "compare", str(model_dir), str(narrow), *words, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    rows = report["Predictions that changed most"]
    assert all(set(row["p of that"]) <= set("0123456789.e-+ →") for row in rows)
    assert any(row["before says"] != row["after says"] for row in rows)
    worst = [row["kl"] for row in rows]
    assert worst == sorted(worst, reverse=True)
    apart = {row["measure"]: row["value"] for row in report["How far apart"]}
    assert worst[0] > apart["kl_worst_percent"] > apart["kl"] > 0
    for option in ("--input-bits", "--cache-bits"):  # a model with itself, coarser
        costs = []
        for bits in ("8", "4"):
            capsys.readouterr()
            assert (
                _run(["eval", "compare", str(model_dir), str(model_dir), *words, option, bits, "--json"]) == 0
            )
            costs.append(json.loads(capsys.readouterr().out)["kl"])
        assert 0 < costs[0] < costs[1]
    assert _run(["eval", "compare", str(model_dir), str(model_dir), *words, "--cache-bits", "1"]) == 2
    assert _run(["eval", "compare", str(model_dir), str(narrow), "--out", str(tmp_path / "other")]) == 2
    assert "--data" in capsys.readouterr().err


def test_every_seed_is_measured_on_the_same_text(model_dir: Path, text_file: Path) -> None:
    first, second = (
        read_texts(text_file, model_dir, samples=3, held_out=2, length=16, seed=seed) for seed in (1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first.held_out, second.held_out, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.calibration, second.calibration, strict=True))


def test_pieces_of_the_vocabulary_are_the_whole(
    small_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = (
        small_decoder(num_kv_heads=2, vocab_size=2100),
        small_decoder(num_kv_heads=2, vocab_size=2100),
    )
    made.layers[0].get_submodule("mlp.down_proj").get_parameter("weight").mul_(1.5)
    monkeypatch.setattr(measure, "_PIECE_BYTES", 1)  # pieces of 1,024 rows, 16 tokens at a time
    found = compare(original, made, windows())
    laws = []
    for model in (original, made):
        with torch.no_grad():
            parts = [
                model(torch.from_numpy(w), torch.tensor([0, len(w)], dtype=torch.int32))[0][:-1]
                for w in windows()
            ]
            laws.append(model.logits(torch.cat(parts)).double().log_softmax(-1))
    targets = torch.cat([torch.from_numpy(w)[1:] for w in windows()])[:, None]
    torch.testing.assert_close(
        found.kl_T.double(), (laws[0].exp() * (laws[0] - laws[1])).sum(-1), atol=1e-6, rtol=1e-4
    )
    for side, (law, perplexity) in enumerate(
        zip(laws, (found.perplexity_before, found.perplexity_after), strict=True)
    ):
        assert perplexity == pytest.approx(math.exp(-float(law.gather(1, targets).mean())), rel=1e-5)
        surprise = -law.gather(1, targets)[:, 0]
        torch.testing.assert_close(found.surprise_2T[side], surprise, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.likeliest_2T[side], law.argmax(-1))


def test_a_model_walked_before_is_the_same_to_compare_with(small_decoder: Callable[..., Decoder]) -> None:
    first, second = small_decoder(num_kv_heads=2), small_decoder(num_kv_heads=2)
    second.layers[1].get_submodule("mlp.up_proj").get_parameter("weight").mul_(1.2)
    known = walked(first, windows())
    for bits in (16, 4):
        expected = compare(first, second, windows(), head_bits=bits)
        found = compare(known, second, windows(), head_bits=bits)
        assert torch.equal(found.kl_T, expected.kl_T)
        assert torch.equal(found.surprise_2T, expected.surprise_2T)
        assert expected.kl > 0
        assert expected.drift_L
        assert not found.drift_L
        second = small_decoder(num_kv_heads=2)
        second.layers[1].get_submodule("mlp.up_proj").get_parameter("weight").mul_(1.2)
