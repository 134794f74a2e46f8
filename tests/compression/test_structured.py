"""Smaller dense models: shapes, least squares, and what the engine makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hanok.artefacts import open_artefact
from hanok.cli import _run
from hanok.compression.hessian import hessian_of
from hanok.compression.settings import CompressConfig
from hanok.compression.structured import Part, best_columns, shrink
from hanok.compression.tune import shrink_and_recover
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_config, load_model, save_model
from hanok.models.config import MoEConfig
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = CompressConfig(samples=40, length=48, held_out=2)


def test_columns_that_others_can_stand_in_for_go_first() -> None:
    generator = torch.Generator().manual_seed(1)
    x_MK = torch.randn(400, 8, generator=generator)
    x_MK[:, 3] = 2 * x_MK[:, 0] - x_MK[:, 1]  # nothing of its own
    x_MK[:, 6] *= 0.01
    weight_NK = torch.randn(5, 8, generator=generator)
    hessian_KK = hessian_of(x_MK)
    assert 6 not in best_columns(weight_NK, hessian_KK, 6, 1e-6)
    kept = best_columns(weight_NK, hessian_KK, 6, 1e-6)
    assert len({0, 1, 3} & set(kept.tolist())) == 2


@pytest.mark.parametrize(("part", "share"), [("channels", 0.3), ("heads", 0.15), ("layers", 0.5)])
def test_a_smaller_directory_that_the_engine_runs(
    part: Part, share: float, model_dir: Path, text_file: Path, tmp_path: Path
) -> None:
    made = shrink(part, share, SMALL, model=model_dir, data=text_file, out=tmp_path / "out")
    assert made.metrics["share_gone"] == pytest.approx(share, abs=0.08)
    assert made.metrics["bytes_after"] < made.metrics["bytes_before"]
    assert 0 < made.metrics["kl"] < 3
    before, after = load_config(model_dir), load_config(tmp_path / "out")
    changed = {
        "channels": after.mlp_width < before.mlp_width and after.mlp_width % 32 == 0,
        "heads": (after.num_heads, after.kv_heads, after.dim_of_head) == (2, 1, before.dim_of_head),
        "layers": after.num_layers == 1,
    }
    assert changed[part]
    engine = LocalEngine(tmp_path / "out", weights="int4")
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    assert len(engine.generate([Request(id="a", prompt_ids=(20, 21, 22), params=params)])[0].ids) == 4
    engine.close()


def test_channels_that_do_nothing_cost_nothing(
    small_decoder: Callable[..., Decoder], model_dir: Path, text_file: Path, tmp_path: Path
) -> None:
    model = small_decoder(num_kv_heads=2)
    for block in model.layers:
        down = block.get_submodule("mlp.down_proj")
        assert isinstance(down, Linear)
        with torch.no_grad():
            down.weight[:, 64:] = 0
    (tmp_path / "base").mkdir()
    save_model(model, tmp_path / "base")
    Tokenizer.load(model_dir).save(tmp_path / "base")
    made = shrink("channels", 0.33, SMALL, model=tmp_path / "base", data=text_file, out=tmp_path / "out")
    assert load_config(tmp_path / "out").mlp_width == 64
    assert made.metrics["kl"] < 0.02  # the least squares are damped


def test_experts_that_the_router_likes_stay(
    small_decoder: Callable[..., Decoder], model_dir: Path, text_file: Path, tmp_path: Path
) -> None:
    moe = MoEConfig(experts=4, per_token=2, width=64, router="softmax")
    (tmp_path / "base").mkdir()
    save_model(small_decoder(num_kv_heads=2, moe=moe, family="mixtral"), tmp_path / "base")
    Tokenizer.load(model_dir).save(tmp_path / "base")
    shrink("experts", 0.2, SMALL, model=tmp_path / "base", data=text_file, out=tmp_path / "out")
    found = load_config(tmp_path / "out").moe
    assert found is not None
    assert found.experts == 3
    model = load_model(tmp_path / "out")
    assert model.get_parameter("layers.0.mlp.gate.weight").shape == (3, 64)


def test_recovery_by_the_original(model_dir: Path, shards: Path, tmp_path: Path) -> None:
    words = ["compress", str(model_dir), "--data", str(shards), "--out", str(tmp_path / "out")]
    few = ["--samples", "20", "--length", "64", "--held-out", "6"]
    assert (
        _run([*words, *few, "--shrink", "layers", "--share", "0.5", "--tune", "10", "--tune-lr", "0.003"])
        == 0
    )
    made = open_artefact(tmp_path / "out")
    assert made.metrics["perplexity_after"] != made.metrics["perplexity_before_recovery"]
    start = shrink(
        "layers", 0.5, CompressConfig(samples=20, length=64, held_out=6), model=model_dir, data=shards,
        out=tmp_path / "start",
    )  # fmt: skip
    assert made.metrics["kl"] < 0.7 * start.metrics["kl"]
    assert made.metrics["steps_kept"] == 10
    assert made.metrics["kl_before_recovery"] == start.metrics["kl"]
    assert not list(tmp_path.glob(".*"))


def test_recovery_that_leads_away_is_left_out(
    model_dir: Path, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = shrink_and_recover(
        "channels", 0.1, SMALL, steps=3, learning_rate=0.5, model=model_dir, data=shards, out=tmp_path / "out"
    )
    start = shrink("channels", 0.1, SMALL, model=model_dir, data=shards, out=tmp_path / "start")
    assert made.metrics["steps_kept"] == 0
    assert made.metrics["kl"] == start.metrics["kl"]
    assert "led away" in caplog.text
    before, after = (load_model(path).state_dict() for path in (tmp_path / "start", tmp_path / "out"))
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_cannot_go(model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    bad: list[tuple[Part, float, str]] = [
        ("experts", 0.3, "experts"), ("channels", 0.99, "stay"), ("heads", 0.9, "stay"), ("layers", 1.5, "share"),
    ]  # fmt: skip
    for part, share, what in bad:
        with pytest.raises(ConfigError, match=what):
            shrink(part, share, SMALL, model=model_dir, data=text_file, out=tmp_path / "out")
