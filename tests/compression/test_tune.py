"""Learning with rounded weights: gradients go through, the result is better once it is rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hanok.artefacts import open_artefact
from hanok.cli import _run
from hanok.compression.compress import compress
from hanok.compression.settings import CompressConfig
from hanok.compression.tune import compress_and_tune
from hanok.errors import ConfigError
from hanok.kernels.formats import quantise
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.models.lora import LoraConfig, add_adapter
from hanok.training.objectives.rounded import as_the_engine, rounded_weights

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = CompressConfig(bits=3, samples=20, length=64, held_out=6)
IDS, BOUNDS = torch.arange(20, 60), torch.tensor([0, 40], dtype=torch.int32)


def test_forward_is_rounded_and_gradients_pass(small_decoder: Callable[..., Decoder]) -> None:
    model = small_decoder(num_kv_heads=2).requires_grad_(True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with rounded_weights(model, as_the_engine(4)):
        found = model.logits(model(IDS, BOUNDS)[0])
        found.square().mean().backward()
    names = dict(model.named_parameters())
    assert names.keys() == before.keys()
    for name, parameter in names.items():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(quantise(parameter, 4).dequantised())
        expected = model.logits(model(IDS, BOUNDS)[0])
    torch.testing.assert_close(found, expected)


def test_adapters_are_rounded_with_their_weight(small_decoder: Callable[..., Decoder]) -> None:
    model = small_decoder(num_kv_heads=2)
    add_adapter(model, LoraConfig(rank=2), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.05)
    one = model.layers[0].get_submodule("mlp.up_proj")
    assert isinstance(one, Linear)
    whole = one.effective_weight().detach()
    with rounded_weights(model, as_the_engine(4)):
        assert torch.equal(one.weight, quantise(whole, 4).dequantised())
        assert not one.active_adapters()
        model(IDS, BOUNDS)[0].sum().backward()
    assert len(one.active_adapters()) == 1
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_" in n)


def test_tuning_makes_the_rounded_model_better(model_dir: Path, shards: Path, tmp_path: Path) -> None:
    plain = compress("rtn", SMALL, model=model_dir, data=shards, out=tmp_path / "plain")
    tuned = compress_and_tune(
        "rtn", SMALL, steps=25, learning_rate=3e-3, model=model_dir, data=shards, out=tmp_path / "tuned"
    )
    assert tuned.metrics["kl"] < 0.7 * plain.metrics["kl"]
    assert tuned.metrics["bytes_after"] == pytest.approx(plain.metrics["bytes_after"], rel=0.01)
    assert open_artefact(tmp_path / "tuned").parents["original"] == open_artefact(model_dir).hash
    codes = load_model(tmp_path / "tuned").get_parameter("layers.0.mlp.up_proj.weight")
    assert len(codes.unflatten(1, (-1, 32))[0, 0].unique()) <= 8
    assert not list(tmp_path.glob(".*"))


def test_what_tuning_is_not_for(model_dir: Path, shards: Path, text_file: Path, tmp_path: Path) -> None:
    more = {"steps": 1, "learning_rate": 1e-3, "model": model_dir, "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match="shards"):
        compress_and_tune("rtn", SMALL, data=text_file, **more)
    pruned = CompressConfig(prune="magnitude")
    with pytest.raises(ConfigError, match="pruned"):
        compress_and_tune("rtn", pruned, data=shards, **more)


def test_the_commands(model_dir: Path, shards: Path, tmp_path: Path) -> None:
    words = [
        "compress",
        str(model_dir),
        "--data",
        str(shards),
        "--out",
        str(tmp_path / "out"),
        "--method",
        "rtn",
    ]
    assert _run([*words, "--tune", "2", "--held-out", "2", "--length", "48", "--samples", "4"]) == 0
    train = [
        "train",
        "--shards",
        str(shards),
        "--out",
        str(tmp_path / "train"),
        "--init-from",
        str(model_dir),
    ]
    short = ["--max-steps", "2", "--quantise", "int4", "--max-seq-len", "128", "--micro-batch-tokens", "256"]
    assert _run([*train, *short, "--tokens-per-step", "256", "--validation-tokens", "256"]) == 0
