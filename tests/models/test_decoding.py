"""Decoding heads: ranges, what each head sees, and their file beside a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanok.artefacts.files import sha256_file
from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.checkpoint.decoding import HEADS_FILE, backbone_hash, load_heads, save_heads
from hanok.models.checkpoint.weights import read_metadata
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.decoding import COLDEST, DecodingHeads, law_features


def random_heads(width: int = 12) -> DecodingHeads:
    heads = DecodingHeads(width)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return heads


def test_a_new_head_says_one_and_a_half() -> None:
    hidden, logits = torch.randn(5, 12), torch.randn(5, 40)
    temperature, top_p = DecodingHeads(12).laws(hidden, logits)
    assert temperature.tolist() == [1.0] * 5
    assert top_p.tolist() == [0.5] * 5


def test_by_hand() -> None:
    heads, hidden, logits = random_heads(), torch.randn(3, 12), torch.randn(3, 40) * 3
    tensors = heads.state_dict()

    def mlp(name: str, x: torch.Tensor) -> torch.Tensor:
        inner = (x @ tensors[f"{name}.mlp.0.weight"].T + tensors[f"{name}.mlp.0.bias"]).clamp(min=0)
        return (inner @ tensors[f"{name}.mlp.2.weight"][0] + tensors[f"{name}.mlp.2.bias"]).sigmoid()

    temperature = 2 * mlp("temp_head", hidden)
    law = (logits / temperature[:, None]).softmax(1)
    ordered = law.sort(1, descending=True).values
    features = [
        ordered[:, 0],
        -(law * (law + 1e-8).log()).sum(1),
        law.var(1, correction=1),
        ordered[:, :5].sum(1),
    ]
    joined = torch.cat([hidden, temperature[:, None], torch.stack(features, 1)], dim=1)
    assert torch.allclose(heads.temperature(hidden), temperature, atol=1e-6)
    assert torch.allclose(heads.top_p(hidden, temperature, logits), mlp("top_p_head", joined), atol=1e-6)
    assert all(0 < t < 2 for t in temperature.tolist())


def test_no_gradient_from_top_p_reaches_the_temperature() -> None:
    heads, hidden, logits = random_heads(), torch.randn(3, 12), torch.randn(3, 40, requires_grad=True)
    heads.top_p(hidden, heads.temperature(hidden), logits).sum().backward()
    assert logits.grad is None
    assert all(parameter.grad is None for parameter in heads.temp_head.parameters())
    assert all(parameter.grad is not None for parameter in heads.top_p_head.parameters())


def test_the_coldest() -> None:
    heads = DecodingHeads(12)
    with torch.no_grad():
        heads.get_parameter("temp_head.mlp.2.bias").fill_(-200.0)
    temperature, top_p = heads.laws(torch.randn(2, 12), torch.randn(2, 40) * 100)
    assert temperature.tolist() == pytest.approx([COLDEST] * 2)
    assert torch.isfinite(top_p).all()
    assert law_features(torch.zeros(1, 3), torch.ones(1))[0].tolist() == pytest.approx(
        [1 / 3, 1.0986, 0.0, 1.0], abs=1e-4
    )


def test_round_trip(tmp_path: Path) -> None:
    """Merging is copying the file, splitting is deleting it; the weights stay the same bytes."""
    model = tmp_path / "model"
    save_model(
        Decoder(ModelConfig(vocab_size=50, hidden_size=16, num_layers=1, pattern=("gqa",), num_heads=2)),
        model,
    )
    before, backbone = sha256_file(model / "model.safetensors"), backbone_hash(model)
    assert load_heads(model, width=12) is None
    heads = random_heads()
    save_heads(heads, model, backbone=backbone)
    again = load_heads(model, width=12)
    assert again is not None
    for name, tensor in heads.state_dict().items():  # first maps are kept in bfloat16
        kept = tensor.bfloat16().float() if name.endswith("mlp.0.weight") else tensor
        assert torch.equal(again.state_dict()[name], kept)
    file = sha256_file(model / HEADS_FILE)
    save_heads(again, model, backbone=backbone)
    assert sha256_file(model / HEADS_FILE) == file
    assert read_metadata(model / HEADS_FILE)["backbone"] == backbone == backbone_hash(model)
    assert sha256_file(model / "model.safetensors") == before
    load_model(model)  # the heads' file is none of the model's
    (model / HEADS_FILE).unlink()
    assert load_heads(model, width=12) is None
    assert sum(p.numel() for p in DecodingHeads(4096).parameters()) == pytest.approx(
        2.1e6, rel=0.01
    )  # as for 8B


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_heads(random_heads(), tmp_path, backbone="")
    with pytest.raises(CheckpointError, match="of 12 numbers, the model's have 16"):
        load_heads(tmp_path, width=16)
    tensors = load_file(tmp_path / HEADS_FILE)
    save_file({**tensors, "top_p_head.mlp.2.bias": torch.tensor([torch.nan])}, tmp_path / HEADS_FILE)
    with pytest.raises(CheckpointError, match="NaN"):
        load_heads(tmp_path, width=12)
    tensors.pop("temp_head.mlp.2.weight")
    save_file(tensors, tmp_path / HEADS_FILE)
    with pytest.raises(CheckpointError, match=r"temp_head.mlp.2.weight is missing, expected \(1, 256\)"):
        load_heads(tmp_path, width=12)
    (tmp_path / HEADS_FILE).write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match="damaged"):
        load_heads(tmp_path, width=12)
