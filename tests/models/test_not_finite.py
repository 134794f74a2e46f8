"""Weights that are no numbers are found when a model is read, of whatever kind they are and wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model, save_model, save_quantised
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder

SHAPE = {
    "vocab_size": 61, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "head_dim": 32, "intermediate_size": 96,
    "tie_embeddings": False, "mtp_layers": 1,
}  # fmt: skip
MODELS = {
    "hybrid": {"pattern": ("kda", "mla"), "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
               "v_head_dim": 16},
    "experts": {"pattern": ("gqa",), "qkv_bias": True, "moe": MoEConfig(experts=4, per_token=2, width=32, router="sigmoid")},
}  # fmt: skip


def save(name: str, bits: int | None, directory: Path) -> None:
    model = Decoder(ModelConfig(**SHAPE | MODELS[name]), generator=torch.Generator().manual_seed(0))
    if bits is None:
        save_model(model.bfloat16(), directory)
    else:
        save_quantised(model.requires_grad_(False), directory, bits=bits)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_looked_at(name: str, bits: int | None, tmp_path: Path) -> None:
    """Plain matrices, codes' scales, biases, norms, routers, convolutions, embedding, head and heads for later tokens."""
    save(name, bits, tmp_path)
    looked_at = 0
    for file in sorted(tmp_path.glob("*.safetensors")):
        tensors = load_file(file)
        for number, (key, tensor) in enumerate(tensors.items()):
            if not tensor.is_floating_point():
                continue
            spoilt = tensor.clone()
            spoilt.view(-1)[-1] = torch.nan if number % 2 else torch.inf
            save_file(tensors | {key: spoilt}, file)
            with pytest.raises(CheckpointError, match="NaN or infinity"):
                load_model(tmp_path, dtype=torch.float32 if number % 4 == 0 else "stored")
            looked_at += 1
        save_file(tensors, file)
    assert load_model(tmp_path, dtype="stored").config.mtp_layers == 1
    assert looked_at > 20
