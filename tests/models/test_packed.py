"""Quantised safetensors: the values that their packers put in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.checkpoint.packed import dequantise
from hanok.models.checkpoint.weights import write_weights
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

OUT, IN, GROUP = 48, 64, 16


def words(codes: Tensor, bits: int) -> Tensor:
    """[R, C P] codes to [R, C] words, by integer arithmetic on Python numbers."""
    per = 32 // bits
    packed = []
    for row in codes.tolist():
        line = []
        for start in range(0, len(row), per):
            value = sum(code << (bits * i) for i, code in enumerate(row[start : start + per]))
            line.append(value - (1 << 32) if value >= 1 << 31 else value)
        packed.append(line)
    return torch.tensor(packed, dtype=torch.int32)


def drawn(bits: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """codes [IN, OUT], zeros [G, OUT] (at least 1), scales [G, OUT]."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (IN, OUT), generator=generator)
    zeros = torch.randint(1, 1 << bits, (IN // GROUP, OUT), generator=generator)
    return codes, zeros, (0.01 + torch.rand(IN // GROUP, OUT, generator=generator)).half()


def values(codes: Tensor, zeros: Tensor, scales: Tensor, group: Tensor) -> Tensor:
    return ((codes - zeros[group]) * scales[group].float()).half().t()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("ordered", [False, True])
def test_gptq(bits: int, ordered: bool) -> None:
    codes, zeros, scales = drawn(bits)
    group = torch.arange(IN) // GROUP
    if ordered:  # activation order: inputs belong to groups in any order
        group = group[torch.randperm(IN, generator=torch.Generator().manual_seed(1))]
    parts = {
        "a.qweight": words(codes.t(), bits).t(),
        "a.qzeros": words(zeros - 1, bits),
        "a.scales": scales,
        "b": scales,
    }
    if ordered:
        parts["a.g_idx"] = group.int()
    found = dequantise(parts, {"quant_method": "gptq", "bits": bits})
    assert set(found) == {"a.weight", "b"}
    assert torch.equal(found["a.weight"], values(codes, zeros, scales, group))
    second = dequantise(
        {**parts, "a.qzeros": words(zeros, bits)},
        {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq_v2"},
    )
    assert torch.equal(second["a.weight"], found["a.weight"])


def test_awq() -> None:
    codes, zeros, scales = drawn(4)

    def shuffled(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]].flatten(1)

    parts = {
        "a.qweight": words(shuffled(codes), 4),
        "a.qzeros": words(shuffled(zeros), 4),
        "a.scales": scales,
    }
    found = dequantise(parts, {"quant_method": "awq", "bits": 4, "version": "gemm"})
    assert torch.equal(found["a.weight"], values(codes, zeros, scales, torch.arange(IN) // GROUP))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_against_its_own_packer(bits: int) -> None:
    packer = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
    codes, _, scales = drawn(bits)
    signed = (codes.t() - (1 << (bits - 1))).to(torch.int8).contiguous()
    parts = {
        "a.weight_packed": packer.pack_to_int32(signed, bits), "a.weight_scale": scales.t().contiguous(),
        "a.weight_shape": torch.tensor([OUT, IN]),
    }  # fmt: skip
    settings = {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": bits}}},
    }  # fmt: skip
    found = dequantise(parts, settings)
    group = torch.arange(IN) // GROUP
    assert torch.equal(found["a.weight"], (signed.float() * scales.t()[:, group].float()).half())
    zeros = torch.randint(-8, 8, (OUT, IN // GROUP), generator=torch.Generator().manual_seed(3)).to(
        torch.int8
    )
    parts["a.weight_zero_point"] = packer.pack_to_int32(zeros, bits, packed_dim=0)
    found = dequantise(parts, settings)
    assert torch.equal(
        found["a.weight"], ((signed.float() - zeros[:, group].float()) * scales.t()[:, group].float()).half()
    )


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_eight_bits_with_a_scale_an_output(kind: torch.dtype) -> None:
    weight = (20 * torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))).to(kind)
    scale = torch.rand(OUT, 1, generator=torch.Generator().manual_seed(1)).bfloat16()
    form = "int-quantized" if kind == torch.int8 else "float-quantized"
    found = dequantise(
        {"a.weight": weight, "a.weight_scale": scale, "n.weight": scale},
        {"quant_method": "compressed-tensors", "format": form},
    )
    assert set(found) == {"a.weight", "n.weight"}
    assert torch.equal(found["a.weight"], (weight.float() * scale.float()).bfloat16())


def quantised_directory(directory: Path) -> tuple[Decoder, dict[str, Any]]:
    """A small Llama whose maps in the layers are GPTQ codes, and the plain model with the same values."""
    model = Decoder(ModelConfig(
        vocab_size=40, hidden_size=64, num_layers=2, num_heads=2, pattern=("gqa",), intermediate_size=64, family="llama",
    ))  # fmt: skip
    save_model(model, directory)
    tensors = load_file(directory / "model.safetensors")
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if "_proj" not in name:
            packed[name] = tensor.half()
            continue
        base, (outputs, inputs) = name.removesuffix(".weight"), tensor.shape
        codes = torch.randint(0, 16, (inputs, outputs), generator=torch.Generator().manual_seed(len(name)))
        scales = torch.full((inputs // GROUP, outputs), 0.02).half()
        packed |= {
            f"{base}.qweight": words(codes.t(), 4).t(), f"{base}.scales": scales,
            f"{base}.qzeros": words(torch.full((inputs // GROUP, outputs), 7), 4),
        }  # fmt: skip
        model.get_parameter(base.removeprefix("model.") + ".weight").data = (
            ((codes - 8) * scales[0, 0].float()).half().t().float()
        )
    for name, parameter in model.named_parameters():
        if "_proj" not in name:
            parameter.data = parameter.data.half().float()
    write_weights(packed, directory)
    values = json.loads((directory / "config.json").read_text())
    return model, values | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": GROUP}}


def test_a_quantised_directory_is_a_model(tmp_path: Path) -> None:
    model, settings = quantised_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    loaded = load_model(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    save_model(loaded, tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


@pytest.mark.parametrize("change", [
    {"quant_method": "bitsandbytes"}, {"bits": 3}, {"quant_method": "awq", "version": "marlin"},
    {"quant_method": "compressed-tensors", "format": "marlin-24"},
    {"quant_method": "compressed-tensors", "format": "pack-quantized"},
])  # fmt: skip
def test_what_is_not_read_is_one_clear_error(tmp_path: Path, change: dict) -> None:
    _, settings = quantised_directory(tmp_path)
    settings["quantization_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert caught.value.remedy


def test_a_part_that_is_missing(tmp_path: Path) -> None:
    _, settings = quantised_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.layers.0.self_attn.q_proj.scales")
    write_weights(tensors, tmp_path)
    with pytest.raises(CheckpointError, match="do not fit together"):
        load_model(tmp_path)
