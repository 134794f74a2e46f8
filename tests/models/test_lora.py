"""Low-rank adapters: the same numbers as PEFT in both directions, and what they may not change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import public_models as public
import pytest
import torch
from torch import Tensor

from hanok.errors import CheckpointError, ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.models.lora import (
    LoraConfig,
    Merged,
    activate,
    adapter_names,
    add_adapter,
    load_adapter,
    remove_adapter,
    save_adapter,
)

pytestmark = pytest.mark.filterwarnings("ignore")
FAMILIES = {  # family: PEFT's settings
    "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "qwen2": {"target_modules": "all-linear", "use_rslora": True},
    "qwen3": {
        "target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 3},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 5},
    },
    "phi3": {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    "deepseek_v3": {"target_modules": ["q_a_proj", "kv_b_proj", "kv_a_proj_with_mqa", "o_proj"]},
}  # fmt: skip
HYBRID = ModelConfig(
    vocab_size=61, hidden_size=48, num_heads=4, num_layers=4, head_dim=16, kv_lora_rank=24,
    pattern=("kda", "kda", "kda", "mla"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)


def ids() -> Tensor:
    return torch.randint(3, 61, (40,), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits_of(model: Decoder) -> Tensor:
    hidden, _ = model(ids(), torch.tensor([0, 40], dtype=torch.int32))
    return model.logits(hidden)


def filled_hybrid() -> Decoder:
    model = Decoder(HYBRID, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not name.endswith(("A_log", "dt_bias")):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def with_random_adapter(model: Decoder, name: str = "default", seed: int = 3, **options) -> LoraConfig:
    config = LoraConfig(rank=4, alpha=6, **options)
    generator = torch.Generator().manual_seed(seed)
    add_adapter(model, config, name=name, generator=generator)
    for key, parameter in model.named_parameters():
        if f".adapters.{name}.lora_B" in key:
            parameter.data.normal_(0, 0.2, generator=generator)
    return config


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_of_peft_gives_its_logits(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = public.make(name)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", **FAMILIES[name]
    )
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_model(tmp_path / "base")
    plain = logits_of(ours)
    load_adapter(ours, tmp_path / "adapter")
    expected = theirs(ids()[None]).logits[0]
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits_of(ours), expected, atol=1e-4, rtol=1e-4)
    merged = Merged(ours)
    torch.testing.assert_close(logits_of(ours), expected, atol=2e-4, rtol=2e-4)
    merged.unmerge()
    remove_adapter(ours, "default")
    assert torch.equal(logits_of(ours), plain)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "qwen3", "deepseek_v3"])
def test_peft_loads_ours(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = public.make(name)
    base.save_pretrained(tmp_path / "base")
    ours = load_model(tmp_path / "base")
    config = with_random_adapter(
        ours, targets=("o_proj", "q_b_proj" if name == "deepseek_v3" else "q_proj"), rslora=True
    )
    save_adapter(ours, config, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits_of(ours), theirs(ids()[None]).logits[0], atol=1e-4, rtol=1e-4)


def test_a_fresh_adapter_changes_nothing_and_alone_learns() -> None:
    model = filled_hybrid()
    before = logits_of(model)
    add_adapter(model, LoraConfig(rank=3, targets=()), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits_of(model), before)
    hidden, _ = model(ids(), torch.tensor([0, 40], dtype=torch.int32))
    model.logits(hidden).square().mean().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning
    assert all(".adapters.default.lora_" in name for name in learning)
    assert len(learning) == sum(".adapters." in name for name, _ in model.named_parameters())


def test_round_trip_stack_and_decode_state(tmp_path: Path) -> None:
    model = filled_hybrid()
    plain = logits_of(model)
    first = with_random_adapter(model, "a", 3, targets=())
    one = logits_of(model)
    with_random_adapter(model, "b", 4)
    both = logits_of(model)
    save_adapter(model, first, tmp_path / "a", name="a")
    activate(model, ["a"])
    torch.testing.assert_close(logits_of(model), one)
    activate(model, [])
    assert torch.equal(logits_of(model), plain)
    activate(model, ["a", "b"])
    torch.testing.assert_close(logits_of(model), both)
    assert adapter_names(model) == ["a", "b"]
    with torch.no_grad():  # the absorbed form of latent attention reads the matrix of an adapted map
        states, parts = model.new_state(1), []
        for token in ids():
            hidden, states = model(token[None], torch.tensor([0, 1], dtype=torch.int32), states)
            parts.append(model.logits(hidden))
    torch.testing.assert_close(torch.cat(parts), both, atol=1e-4, rtol=1e-4)
    again = filled_hybrid()
    load_adapter(again, tmp_path / "a", name="again")
    torch.testing.assert_close(logits_of(again), one)


def test_a_merged_model_is_saved_without_its_adapter(tmp_path: Path) -> None:
    model = filled_hybrid()
    with_random_adapter(model)
    adapted = logits_of(model)
    save_model(model, tmp_path / "unmerged")
    assert not torch.allclose(logits_of(load_model(tmp_path / "unmerged")), adapted)
    Merged(model).keep()
    assert adapter_names(model) == []
    save_model(model, tmp_path / "merged")
    torch.testing.assert_close(logits_of(load_model(tmp_path / "merged")), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("change", "what"), [
    ({"peft_type": "IA3"}, "IA3"), ({"use_dora": True}, "lora_A, lora_B"), ({"bias": "all"}, "biases"),
    ({"r": None}, "r = None"), ({"r": 0}, "r = 0"), ({"lora_alpha": None}, "not readable"),
    ({"rank_pattern": {"q_proj(": 4}}, "not readable"), ({"alpha_pattern": [4]}, "not readable"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
])  # fmt: skip
def test_settings_that_are_not_supported(tmp_path: Path, change: dict, what: str) -> None:
    model = filled_hybrid()
    save_adapter(model, with_random_adapter(model), tmp_path)
    file = tmp_path / "adapter_config.json"
    values = json.loads(file.read_text()) | change
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=what):
        load_adapter(filled_hybrid(), tmp_path)


def test_an_adapter_of_another_model_and_a_target_that_is_not_there(tmp_path: Path) -> None:
    model = filled_hybrid()
    save_adapter(model, with_random_adapter(model), tmp_path)
    other = Decoder(ModelConfig(vocab_size=61, hidden_size=32, num_heads=2, num_layers=2, pattern=("gqa",)))
    with pytest.raises(CheckpointError, match="another model"):
        load_adapter(other, tmp_path)
    with pytest.raises(ConfigError, match=r'"q_pro".*q_proj'):
        add_adapter(other, LoraConfig(targets=("q_pro",)))
    with pytest.raises(ConfigError, match="already"):
        add_adapter(model, LoraConfig())
