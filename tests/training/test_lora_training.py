"""Adapters through the loop: nothing else moves, a stopped run goes on bit for bit, the result is merged and apart."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.errors import ConfigError, Interrupted
from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Decoder
from hanok.models.lora import LoraConfig, Merged, adapter_names, add_adapter, load_adapter
from hanok.training.objectives import next_token
from hanok.training.run import train

LORA = {"lora_rank": 3, "adamw_lr": 0.01, "mixture": {"chat-train": 1.0}, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base")
    return train(tiny.tiny_config(max_steps=8), shards=shards, out=out, model=tiny.tiny_model()).path


def test_only_adapters_learn_and_the_model_has_them_merged(shards: Path, base: Path, tmp_path: Path) -> None:
    artefact = train(tiny.tiny_config(max_steps=16, **LORA), shards=shards, out=tmp_path, init_from=base)
    assert artefact.metrics["trained_parameters"] < artefact.metrics["parameters"] / 2
    before, after = load_model(base), load_model(artefact.path)
    config = load_adapter(before, tmp_path / "adapter")
    assert config.rank == 3
    assert config.alpha == 6
    Merged(before).keep()
    plain = load_model(base).state_dict()
    moved = [name for name, tensor in after.state_dict().items() if not torch.equal(tensor, plain[name])]
    assert moved
    assert all(name.endswith("_proj.weight") or "proj_with_mqa" in name for name in moved), moved
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, atol=1e-6, rtol=1e-6)


def test_a_stopped_run_goes_on_bit_for_bit(
    shards: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.tiny_config(**LORA)
    train(config, shards=shards, out=tmp_path / "straight", init_from=base)
    calls, original = 0, next_token.next_token_loss

    def interrupting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(next_token, "next_token_loss", interrupting)
    with pytest.raises(Interrupted):
        train(config, shards=shards, out=tmp_path / "stopped", init_from=base)
    checkpoint = sorted((tmp_path / "stopped" / "checkpoints").iterdir())[-1]
    model = load_model(base)
    load_adapter(model, checkpoint)  # every checkpoint is an adapter that PEFT reads
    assert adapter_names(model) == ["default"]
    assert not (checkpoint / "model.safetensors").exists()
    train(config, shards=shards, out=tmp_path / "stopped", init_from=base)
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_lengths_of_rows_are_learnt_merged_and_restored(
    shards: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DoRA, stopped in the middle."""
    config = tiny.tiny_config(max_steps=6, checkpoint_every=2, **LORA, lora_dora=True)
    train(config, shards=shards, out=tmp_path / "straight", init_from=base)
    calls, original = iter(range(1000)), next_token.next_token_loss

    def interrupting(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(next_token, "next_token_loss", interrupting)
    with pytest.raises(Interrupted):
        train(config, shards=shards, out=tmp_path / "stopped", init_from=base)
    train(config, shards=shards, out=tmp_path / "stopped", init_from=base)
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    merged = load_model(base)
    assert load_adapter(merged, tmp_path / "straight" / "adapter").dora
    fresh = load_model(base)
    add_adapter(fresh, LoraConfig(rank=3, dora=True))
    at_start = {n: p for n, p in fresh.named_parameters() if n.endswith("magnitude_vector")}
    lengths = {n: p for n, p in merged.named_parameters() if n.endswith("magnitude_vector")}
    assert at_start.keys() == lengths.keys()
    assert all(not torch.equal(lengths[name], at_start[name]) for name in lengths)
    Merged(merged).keep()
    for name, tensor in load_model(tmp_path / "straight" / "model").state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", pytest.param("phi3", marks=pytest.mark.slow)])
def test_a_family_that_joins_its_maps(
    family: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and gone on from a checkpoint in the family's own files."""
    special = {
        "phi3": {"pattern": ("gqa",), "tie_embeddings": False},
        "gpt2": {"pattern": ("gqa",), "norm": "layer", "rope_theta": None, "learned_positions": True, "qkv_bias": True,
                 "o_bias": True, "mlp_bias": True, "gated_mlp": False, "activation": "gelu_tanh"},
    }[family]  # fmt: skip
    model = Decoder(tiny.tiny_model(vocab_size=266, family=family, **special))
    save_model(model, tmp_path / "base", tokenizer_dir=shards)
    config = tiny.tiny_config(**LORA)
    straight = train(config, shards=shards, out=tmp_path / "straight", init_from=tmp_path / "base")
    adapted = load_model(tmp_path / "base")
    assert load_adapter(adapted, tmp_path / "straight" / "adapter").rank == 3
    Merged(adapted).keep()
    for name, tensor in load_model(straight.path).state_dict().items():
        torch.testing.assert_close(adapted.state_dict()[name], tensor, atol=1e-6, rtol=1e-6)
    moved = [n for n, t in adapted.state_dict().items() if not torch.equal(t, model.state_dict()[n])]
    assert {name.split(".")[-2] for name in moved} >= {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj"}
    original = next_token.next_token_loss
    calls = iter(range(1000))

    def interrupting(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(next_token, "next_token_loss", interrupting)
    with pytest.raises(Interrupted):
        train(config, shards=shards, out=tmp_path / "stopped", init_from=tmp_path / "base")
    train(config, shards=shards, out=tmp_path / "stopped", init_from=tmp_path / "base")
    file = "adapter/adapter_model.safetensors"
    assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()


def test_adapters_need_a_model_and_known_targets(shards: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a model"):
        train(tiny.tiny_config(**LORA), shards=shards, out=tmp_path / "a", model=tiny.tiny_model())
    with pytest.raises(ConfigError, match="lora_dora"):
        tiny.tiny_config(lora_dora=True)
    config = tiny.tiny_config(**LORA, lora_targets=("q_pro",))
    with pytest.raises(ConfigError, match=r'"q_pro" is no linear map'):
        train(config, shards=shards, out=tmp_path / "b", init_from=base)
