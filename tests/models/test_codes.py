"""Quantised directories: written for others, read without loss, plain as soon as somebody wants numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import public_models as public
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hanok.errors import ConfigError
from hanok.kernels.formats import Quantised, Stored, pack_words, quantise, unpack_words
from hanok.models.checkpoint import FileCodes, load_model, load_stored_bits, save_model, save_quantised
from hanok.models.checkpoint.weights import write_weights
from hanok.models.coded import CodedParameter, as_quantised, stored_codes
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.convert import convert
from hanok.models.decoder import Decoder
from hanok.models.lora import LoraConfig, Merged, add_adapter

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {
    "vocab_size": 61, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "head_dim": 16, "intermediate_size": 96,
}  # fmt: skip
MODELS = {
    "llama": {"pattern": ("gqa",), "num_kv_heads": 2},
    "qwen2": {"pattern": ("gqa",), "qkv_bias": True, "family": "qwen2", "tie_embeddings": False},
    "phi3": {"pattern": ("gqa",), "family": "phi3", "tie_embeddings": False},
    "hybrid": {"pattern": ("kda", "mla"), "num_heads": 2, "head_dim": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
               "qk_rope_head_dim": 16, "v_head_dim": 16},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)


def model_of(name: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Decoder:
    model = Decoder(
        ModelConfig(**SHAPE | MODELS[name] | changes), generator=torch.Generator().manual_seed(0)
    ).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()


def logits_of(model: Decoder) -> Tensor:
    ids = torch.randint(3, 61, (40,), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.logits(model(ids, torch.tensor([0, 40], dtype=torch.int32))[0])


def coded(model: Decoder) -> dict[str, CodedParameter]:
    return {name: p for name, p in model.named_parameters() if isinstance(p, CodedParameter)}


@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_those_of_compressed_tensors(bits: int) -> None:
    theirs = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    low = -8 if bits == 4 else -128
    codes = torch.randint(low, -low, (7, 96), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    assert torch.equal(pack_words(codes, bits), theirs.pack_to_int32(codes, bits))
    assert torch.equal(unpack_words(pack_words(codes, bits), bits), codes)
    assert torch.equal(unpack_words(pack_words(codes, bits).t().contiguous().t(), bits), codes)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_what_packing_the_model_gives(name: str, bits: int, tmp_path: Path) -> None:
    model = model_of(name)
    save_quantised(model, tmp_path, bits=bits)
    assert load_stored_bits(tmp_path) == bits
    loaded = load_model(tmp_path, dtype="stored").requires_grad_(False)
    found = coded(loaded)
    for key, parameter in model.named_parameters():
        if key not in found:
            assert torch.equal(loaded.get_parameter(key), parameter)
            continue
        ours, theirs = quantise(parameter, bits), as_quantised(found[key], bits)
        assert torch.equal(ours.q_NK, theirs.q_NK)
        assert torch.equal(ours.scales_NG, theirs.scales_NG)
    left = [key for key, _ in model.named_parameters() if key not in found]
    assert not any(key.endswith("_proj.weight") for key in left)
    assert len(coded(loaded)) == len(found) > 0, "nobody has asked for numbers yet"


def test_numbers_come_when_they_are_asked_for(tmp_path: Path) -> None:
    model = model_of("llama")
    save_quantised(model, tmp_path, bits=4, plain=torch.float16)
    lazy, plain = load_model(tmp_path, dtype="stored"), load_model(tmp_path)
    where = "layers.1.mlp.up_proj.weight"
    asked = lazy.get_parameter(where)
    assert asked.shape == (96, 64)
    assert asked.dtype == torch.float16
    assert isinstance(asked, CodedParameter)
    stored = stored_codes(asked)
    assert torch.equal(asked.float(), plain.get_parameter(where))
    assert type(asked) is nn.Parameter
    assert stored_codes(asked) is stored, "still what the codes say"
    asked.data[0, 0] += 1
    assert stored_codes(asked) is None
    asked.data[0, 0] -= 1
    lazy.set_compute_dtype(torch.float32)
    torch.testing.assert_close(logits_of(lazy), logits_of(plain), atol=1e-4, rtol=1e-4)
    assert not coded(lazy)


def test_plain_again_with_an_adapter_and_in_a_copy(tmp_path: Path) -> None:
    model = model_of("llama")
    save_quantised(model, tmp_path / "codes", bits=8)
    plain, lazy = load_model(tmp_path / "codes"), load_model(tmp_path / "codes", dtype="stored")
    save_model(lazy, tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    for key, tensor in load_model(tmp_path / "plain").state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[key]), key
    adapted = load_model(tmp_path / "codes", dtype="stored")
    add_adapter(adapted, LoraConfig(rank=2, targets=("q_proj",)), generator=torch.Generator().manual_seed(3))
    low = adapted.get_submodule("layers.0.self_attn.q_proj.adapters.default")
    low.get_parameter("lora_B").data.normal_(generator=torch.Generator().manual_seed(4))
    assert isinstance(adapted.get_parameter("layers.0.self_attn.q_proj.weight"), CodedParameter)
    Merged(adapted).keep()
    assert stored_codes(adapted.get_parameter("layers.0.self_attn.q_proj.weight")) is None
    assert stored_codes(adapted.get_parameter("layers.0.self_attn.k_proj.weight")) is not None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["qwen3", "qwen2", "phi3", "llama"])
def test_transformers_reads_ours(
    name: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    for key, size in {"hidden_size": 64, "intermediate_size": 96}.items():
        monkeypatch.setitem(public.SIZES, key, size)
    public.make(name).save_pretrained(tmp_path / "base")
    made = convert(tmp_path / "base", tmp_path / "codes", weights=f"int{bits}")
    assert made["type"] == f"int{bits}"
    ours = load_model(tmp_path / "codes", dtype="stored")
    save_model(ours, tmp_path / "plain")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "codes", dtype=torch.float16, attn_implementation="eager"
    ).eval()
    ids = torch.arange(3, 43)
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0].float()  # takes the packed form apart
        found = ours.logits(ours(ids, torch.tensor([0, 40], dtype=torch.int32))[0])
    assert (found - expected).std() < 0.02 * expected.std()
    plain, values = load_file(tmp_path / "plain" / "model.safetensors"), theirs.state_dict()
    packed = [key for key in load_file(tmp_path / "codes" / "model.safetensors") if key.endswith("_packed")]
    assert packed
    for key in packed:
        base = key.removesuffix("_packed")
        assert plain[base].dtype == values[base].dtype == torch.float16
        assert torch.equal(plain[base], values[base]), base


def of_others(method: str, directory: Path, group: int, *, zeros: bool = False) -> dict[str, Tensor]:
    """A small Llama in the files of another packer, with zero points or symmetric; returns the integers that were put in."""
    model = model_of("llama", torch.float16, intermediate_size=128)
    save_model(model, directory)
    tensors: dict[str, Tensor] = {}
    integers: dict[str, Tensor] = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = tensor
            continue
        base, (outputs, inputs) = name.removesuffix(".weight"), tensor.shape
        generator = torch.Generator().manual_seed(len(integers))
        codes_IO = torch.randint(0, 16, (inputs, outputs), generator=generator)
        scales_GO = (0.01 + 0.02 * torch.rand(inputs // group, outputs, generator=generator)).half()
        zeros_GO = torch.full_like(scales_GO, 8, dtype=torch.long)
        if zeros:
            zeros_GO = torch.randint(1, 16, zeros_GO.shape, generator=generator)
        integers[base.removeprefix("model.") + ".weight"] = (codes_IO.t() - 8).to(torch.int8)
        if method == "gptq":
            tensors |= {
                f"{base}.qweight": words(codes_IO.t()).t(), f"{base}.scales": scales_GO,
                f"{base}.qzeros": words(zeros_GO - 1),
                f"{base}.g_idx": (torch.arange(inputs) // group).int(),
            }  # fmt: skip
        elif method == "awq":
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            shuffled, shuffled_zeros = (
                part.unflatten(1, (-1, 8))[..., order].flatten(1) for part in (codes_IO, zeros_GO)
            )
            tensors |= {
                f"{base}.qweight": words(shuffled), f"{base}.scales": scales_GO,
                f"{base}.qzeros": words(shuffled_zeros),
            }  # fmt: skip
        elif method == "pack":
            tensors |= {
                f"{base}.weight_packed": words(codes_IO.t()), f"{base}.weight_scale": scales_GO.t().contiguous(),
                f"{base}.weight_zero_point": words(zeros_GO).t().contiguous(), f"{base}.weight_shape": torch.tensor(tensor.shape),
            }  # fmt: skip
        else:
            integers[base.removeprefix("model.") + ".weight"] *= 15
            tensors |= {
                f"{base}.weight": integers[base.removeprefix("model.") + ".weight"],
                f"{base}.weight_scale": scales_GO[:1].t().bfloat16(),
                f"{base}.weight_zero_point": (zeros_GO[:1].t() - 8).to(torch.int8),
            }
    write_weights(tensors, directory)
    settings = {
        "gptq": {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": not zeros, "desc_act": False},
        "awq": {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": zeros, "version": "gemm"},
        "pack": {"quant_method": "compressed-tensors", "format": "pack-quantized",
                 "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": not zeros,
                                                           "strategy": "group", "group_size": group}}}},
        "int8": {"quant_method": "compressed-tensors", "format": "int-quantized",
                 "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "symmetric": not zeros}}}},
    }[method]  # fmt: skip
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"quantization_config": settings}))
    return integers


def words(codes: Tensor) -> Tensor:
    """Codes of 0 to 15 along the last axis, eight a word."""
    return pack_words((codes - 8).to(torch.int8), 4)


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize(
    ("method", "group"), [("gptq", 32), ("gptq", 64), ("awq", 32), ("int8", 32), ("pack", 32), ("pack", 64)]
)
def test_codes_of_others_are_kept(method: str, group: int, zeros: bool, tmp_path: Path) -> None:
    integers = of_others(method, tmp_path, group, zeros=zeros)
    bits = 8 if method == "int8" else 4
    assert load_stored_bits(tmp_path) == bits
    lazy, plain = load_model(tmp_path, dtype="stored"), load_model(tmp_path)
    found = coded(lazy)
    assert set(found) == set(integers)
    for name, parameter in found.items():
        quantised = as_quantised(parameter, bits)
        assert torch.equal(quantised.q_NK, integers[name])
        assert (quantised.zeros_NG is not None) == zeros
        dequantised = quantised.dequantised().to(parameter.dtype)
        assert torch.equal(dequantised.float(), plain.get_parameter(name))
        assert torch.equal(parameter, dequantised)


@pytest.mark.parametrize(("part", "value", "why"), [
    ("g_idx", 1, "order of activations"), ("scales", 3e-9, "float16"),
])  # fmt: skip
def test_other_codes_are_dequantised_and_the_log_says_why(
    part: str, value: float, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_others("gptq", tmp_path, 32)
    tensors = load_file(tmp_path / "model.safetensors")
    key = f"model.layers.0.self_attn.q_proj.{part}"
    if part == "scales":
        tensors[key] = tensors[key].float()
    tensors[key].view(-1)[0] = value
    write_weights(tensors, tmp_path)
    with caplog.at_level("INFO"):
        lazy = load_model(tmp_path, dtype="stored")
    assert "1 maps (q_proj) do not keep their codes and are dequantised" in caplog.text
    assert why in caplog.text
    assert len(coded(lazy)) == 13
    for name, tensor in load_model(tmp_path).state_dict().items():
        assert torch.equal(lazy.state_dict()[name].float(), tensor)


@pytest.mark.parametrize("method", ["int8", "pack"])
def test_the_lowest_code_of_eight_bits_is_kept(method: str, tmp_path: Path) -> None:
    """Symmetric codes that are found here leave it out; others do not."""
    if method == "int8":
        of_others("int8", tmp_path, 32)
    else:
        save_quantised(model_of("llama"), tmp_path, bits=8)
    tensors = load_file(tmp_path / "model.safetensors")
    key = next(
        key for key in sorted(tensors) if key.endswith(("down_proj.weight", "down_proj.weight_packed"))
    )
    tensors[key].view(torch.int8)[3, 5] = -128 if method == "int8" else 0
    write_weights(tensors, tmp_path)
    found = coded(load_model(tmp_path, dtype="stored"))
    assert len(found) == 14
    name = key.removeprefix("model.").removesuffix("_packed")
    assert as_quantised(found[name], 8).q_NK[3, 5] == -128
    plain = load_model(tmp_path).get_parameter(name)
    assert torch.equal(found[name].float(), plain)


def test_zero_points_are_written_again(tmp_path: Path) -> None:
    """Of a directory that is written anew in its own width, and in a wider one; a map that has become plain has none."""
    of_others("awq", tmp_path / "awq", 32, zeros=True)
    model = load_model(tmp_path / "awq", dtype="stored").requires_grad_(False)
    changed = model.get_parameter("layers.0.mlp.up_proj.weight")
    changed.data = changed.detach() + 0.1
    for bits in (4, 8):
        save_quantised(model, tmp_path / str(bits), bits=bits)
        again = coded(load_model(tmp_path / str(bits), dtype="stored"))
        for name, parameter in coded(model).items():
            ours, theirs = as_quantised(parameter, bits), as_quantised(again[name], bits)
            assert torch.equal(ours.dequantised(), theirs.dequantised()), name
            assert theirs.zeros_NG is not None
        assert again["layers.0.mlp.up_proj.weight"].stored.zeros_NG is None


def test_fractional_zero_points_have_no_file() -> None:
    codes = Quantised(
        torch.zeros(4, 32, dtype=torch.int8), torch.ones(4, 1).half(), 4, torch.full((4, 1), 2.0).half()
    )
    written = FileCodes.of(codes).zeros_NG
    assert written is not None
    assert written.tolist() == [[2]] * 4
    for zero in (2.5, 8.0):
        with pytest.raises(ConfigError, match="zero points"):
            FileCodes.of(replace(codes, zeros_NG=torch.full((4, 1), zero).half()))


def experts_of(directory: Path, bits: int, *, zeros: bool, a_row: bool = False) -> Decoder:
    """A small Mixtral in codes, its experts with zero points or without, a scale for 32 inputs or a row; where it comes from."""
    moe = MoEConfig(experts=3, per_token=2, width=96, router="softmax")
    model = model_of("llama", torch.float16, moe=moe, family="mixtral")
    codes = {}
    for name, parameter in model.named_parameters():
        if not name.startswith("layers.") or "_proj" not in name:
            continue
        one = as_quantised(parameter, bits)
        if zeros:
            one = replace(one, zeros_NG=torch.full_like(one.scales_NG, 3.0))
        if a_row:
            first = one.zeros_NG[:, :1] if one.zeros_NG is not None else None
            one = replace(one, scales_NG=one.scales_NG[:, :1], zeros_NG=first)
        written = FileCodes.of(one)
        shape = (*parameter.shape[:-1], -1)
        parts = (written.words_NP, written.scales_NG, written.zeros_NG)
        words_NP, scales_NG, zeros_NG = (None if part is None else part.view(shape) for part in parts)
        assert words_NP is not None
        assert scales_NG is not None
        codes[name] = FileCodes(words_NP, scales_NG, bits, zeros_NG)
    save_quantised(model, directory, bits=bits, codes=codes)
    return model


@pytest.mark.parametrize("a_row", [False, True], ids=["groups", "a scale a row"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zero points"])
def test_experts_keep_their_codes(bits: int, zeros: bool, a_row: bool, tmp_path: Path) -> None:
    model = experts_of(tmp_path / "made", bits, zeros=zeros, a_row=a_row)
    lazy, plain = load_model(tmp_path / "made", dtype="stored"), load_model(tmp_path / "made")
    found = coded(lazy)
    assert {name for name in found if ".experts." in name} == {
        f"layers.{n}.mlp.experts.{part}" for n in (0, 1) for part in ("gate_up_proj", "down_proj")
    }
    for name, parameter in found.items():
        assert (parameter.stored.zeros_NG is not None) == zeros
        assert parameter.shape == model.get_parameter(name).shape
        ours = as_quantised(parameter, bits).dequantised().view(parameter.shape)
        assert torch.equal(ours, parameter.stored.quantised().dequantised())
        assert torch.equal(
            ours[-1], parameter.stored.of(2).quantised().dequantised() if ours.dim() > 2 else ours[-1]
        )
    save_quantised(lazy.requires_grad_(False), tmp_path / "again", bits=bits)
    assert len(coded(lazy)) == len(found), "nobody has asked for numbers yet"
    again = load_model(tmp_path / "again")
    for name, parameter in found.items():
        assert torch.equal(again.get_parameter(name), plain.get_parameter(name))
        assert torch.equal(parameter.float(), plain.get_parameter(name))


def test_experts_that_do_not_all_have_codes_are_dequantised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One scale that float16 has not, and an expert that is plain in the file: the layers' stacks become numbers, others stay."""
    experts_of(tmp_path, 4, zeros=True)
    expected = load_model(tmp_path).state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    key = next(
        name for name in sorted(tensors) if "layers.1" in name and name.endswith("experts.2.w2.weight_scale")
    )
    tensors[key] = tensors[key].float() * (1 + 2**-14)
    base = next(
        name for name in sorted(tensors) if "layers.0" in name and name.endswith("experts.1.w1.weight_scale")
    )
    base = base.removesuffix("_scale")
    for part in ("packed", "scale", "shape", "zero_point"):
        del tensors[f"{base}_{part}"]
    gate = expected["layers.0.mlp.experts.gate_up_proj"][1, :96]
    write_weights(tensors | {base: gate.half()}, tmp_path)
    with caplog.at_level("INFO"):
        lazy = load_model(tmp_path, dtype="stored")
    assert "experts of one layer have codes of one kind, or none" in caplog.text
    assert len(coded(lazy)) == 2 * 4
    for name, tensor in expected.items():
        torch.testing.assert_close(lazy.state_dict()[name].float(), tensor, rtol=1e-3, atol=1e-6)


def test_what_has_no_such_directory() -> None:
    from hanok.models.checkpoint.write_codes import check_codable

    with pytest.raises(ConfigError, match="experts"):
        moe = MoEConfig(experts=4, per_token=2, width=32)
        check_codable(ModelConfig(**SHAPE, pattern=("gqa",), moe=moe, family="gpt_oss"))
    with pytest.raises(ConfigError, match="turned"):
        check_codable(ModelConfig(**SHAPE, pattern=("gqa",), family="gpt2"))


def test_a_group_of_many_inputs() -> None:
    codes = torch.randint(-8, 8, (5, 128), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    scales = torch.rand(5, 2, generator=torch.Generator().manual_seed(3)).half()
    stored = Stored(pack_words(codes, 4), scales, 4, 128)
    expected = Quantised(codes, scales.repeat_interleave(2, 1), 4)
    assert torch.equal(stored.quantised().dequantised(), expected.dequantised())
    assert torch.equal(stored.values(), expected.dequantised().half())
