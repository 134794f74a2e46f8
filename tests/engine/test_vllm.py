"""An exported model directory is as vLLM wants it: an architecture that it has, and files that `transformers`, which it reads
configuration, tokeniser and template with, takes without a word. What was run in vLLM itself stands in docs/guides/engine.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.text import chat_prompt
from hanok.errors import CheckpointError, ConfigError
from hanok.models.checkpoint import load_config, load_model, save_quantised
from hanok.models.checkpoint.decoding import save_heads
from hanok.models.decoding import DecodingHeads
from hanok.models.export import export
from hanok.models.families import FAMILIES
from hanok.tokens.tokenizer import Tokenizer

# of vllm/model_executor/models/registry.py in vLLM 0.33.0, those that our families name
VLLM = {
    "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "Phi3ForCausalLM", "Olmo2ForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM",
    "Qwen3MoeForCausalLM", "GptOssForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "KimiLinearForCausalLM",
    "Qwen3NextForCausalLM",
}  # fmt: skip
PACKED = {4, 8}  # widths of compressed-tensors' "pack-quantized" there, in groups of 32 too
# what vLLM's KimiLinearConfig and its layers read without a default of their own
KIMI = {
    "linear_attn_config", "mla_use_nope", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "num_experts",
    "first_k_dense_replace", "moe_layer_freq", "intermediate_size", "rms_norm_eps", "hidden_act",
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "hybrid": ("KimiLinearForCausalLM", {"pattern": ("kda", "kda", "kda", "mla")}),
    "llama": ("LlamaForCausalLM", {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}),
    "qwen3": ("Qwen3ForCausalLM", {"pattern": ("gqa",), "qk_norm": True}),
}
MESSAGES = [{"role": "system", "content": "짧게"}, {"role": "user", "content": "hi <|im_end|> there"}]


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "fla", None)  # its kernels need a GPU and are taken when importable
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=[*MODELS, "llama-int4", "llama-int8"])
def directory(
    request: pytest.FixtureRequest, tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    name, _, width = request.param.partition("-int")
    folder = tmp_path_factory.mktemp("model")
    plain = tiny.save_tiny_model(folder / name, **MODELS[name][1])
    if width:
        coded = folder / request.param
        save_quantised(load_model(plain), coded, bits=int(width), tokenizer_dir=plain)
        plain = coded
    save_heads(DecodingHeads(load_config(plain).hidden_size), plain, backbone="")
    made = export(plain, folder / "out" / plain.name)
    assert (made["template_changed"], made["left_out"]) == (True, ["decoding_heads.safetensors"])
    return folder / "out" / plain.name


def test_every_public_family_is_one_of_its_architectures() -> None:
    assert {family.architecture for kind, family in FAMILIES.items() if kind != "hanok"} == VLLM


def test_config_names_what_it_has(directory: Path, transformers: Any) -> None:
    values = json.loads((directory / "config.json").read_text())
    assert values["architectures"] == [MODELS[directory.name.partition("-")[0]][0]]
    config = transformers.AutoConfig.from_pretrained(directory)
    assert config.model_type == values["model_type"]
    if config.model_type == "kimi_linear":
        assert set(values) >= KIMI
        layers = values["linear_attn_config"]
        assert set(layers) == {
            "full_attn_layers",
            "kda_layers",
            "head_dim",
            "num_heads",
            "short_conv_kernel_size",
        }
        assert sorted(layers["full_attn_layers"] + layers["kda_layers"]) == [1, 2, 3, 4]
    coded = values.get("quantization_config")
    if coded is not None:
        weights = coded["config_groups"]["group_0"]["weights"]
        assert (coded["quant_method"], coded["format"]) == ("compressed-tensors", "pack-quantized")
        assert (weights["num_bits"] in PACKED, weights["group_size"], weights["symmetric"]) == (
            True,
            32,
            True,
        )


def test_tokeniser_template_and_ends_are_ours(directory: Path, transformers: Any) -> None:
    tokenizer = Tokenizer.load(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    told = [MESSAGES[0], {"role": "user", "content": "hi there"}]
    ids = theirs.apply_chat_template(told, add_generation_prompt=True, return_dict=False)
    assert list(ids) == list(chat_prompt(tokenizer, told))
    ends = transformers.GenerationConfig.from_pretrained(directory).eos_token_id
    assert set(ends) == set(tokenizer.stop_ids)


@pytest.mark.filterwarnings("ignore")
def test_the_same_answer_from_the_same_files(directory: Path, transformers: Any) -> None:
    import torch

    prompt = list(chat_prompt(Tokenizer.load(directory), MESSAGES))
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[
        0, len(prompt) :
    ].tolist()
    engine = LocalEngine(directory, weights="float32")
    params = SamplingParams(temperature=0.0, max_tokens=12)
    (ours,) = engine.generate([Request(id="a", prompt_ids=prompt, params=params)])
    engine.close()
    assert list(ours.ids) == theirs[: len(ours.ids)]


def test_what_has_no_class_elsewhere_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.save_tiny_model(tmp_path / "model", pattern=("kda", "gqa"))
    with pytest.raises(ConfigError, match="no public family expresses this model"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_template_that_begins_with_the_separator_stays(directory: Path, tmp_path: Path) -> None:
    made = export(directory, tmp_path / "again")
    assert made["template_changed"] is False
    for name in ("tokenizer_config.json", "model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()


def test_missing_weights_are_an_error(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.save_tiny_model(tmp_path / "model", pattern=("gqa",))
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        export(model, tmp_path / "out")
