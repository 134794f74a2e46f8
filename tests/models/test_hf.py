"""Directories that transformers loads natively, with the same logits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder

MOE = MoEConfig(
    experts=8,
    per_token=2,
    width=32,
    shared=1,
    first_dense=1,
    router="sigmoid",
    groups=4,
    top_groups=2,
    scaling=2.4,
)
HYBRID = {"num_layers": 4, "pattern": ("kda", "kda", "kda", "mla"), "head_dim": 16, "kv_lora_rank": 24}
CONFIGS = {
    "hybrid": HYBRID,
    "hybrid-moe": HYBRID | {"moe": MOE},
    "untied": HYBRID | {"tie_embeddings": False},
    "llama": {"num_layers": 2, "pattern": ("gqa",), "num_kv_heads": 2},
    "qwen3": {"num_layers": 2, "pattern": ("gqa",), "num_kv_heads": 1, "qk_norm": True, "head_dim": 24},
}


def random_model(**options) -> Decoder:
    """With weights everywhere: fresh output projections are zero and would hide every mistake."""
    config = ModelConfig(**({"vocab_size": 97, "hidden_size": 48, "num_heads": 4} | options))
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not name.endswith(("A_log", "dt_bias")):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fla", None)  # its kernels need a GPU and are taken when importable
    return pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_it_with_equal_logits(tmp_path: Path, transformers, name: str) -> None:
    model = random_model(**CONFIGS[name])
    save_model(model, tmp_path)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    ids = torch.randint(0, 97, (70,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden, _ = model(ids, torch.tensor([0, 70], dtype=torch.int32))
        ours = model.logits(hidden)
        expected = theirs.eval()(ids[None]).logits[0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip(tmp_path: Path, name: str) -> None:
    model = random_model(**CONFIGS[name])
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_model(random_model(**HYBRID), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_weights_of_another_config_are_refused(tmp_path: Path) -> None:
    save_model(random_model(**HYBRID), tmp_path / "a")
    save_model(random_model(**(HYBRID | {"vocab_size": 98})), tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "b" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \(97, 48\), expected \(98, 48\)"):
        load_model(tmp_path / "b")


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    model = random_model(**HYBRID)
    model.norm.weight.data[3] = float("nan")
    save_model(model, tmp_path)
    with pytest.raises(CheckpointError, match="NaN"):
        load_model(tmp_path)
