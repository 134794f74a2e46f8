"""Weight-decomposed adapters: PEFT's numbers in values, gradients and files, and what a fresh one may not change."""

from __future__ import annotations

import json
from pathlib import Path

import public_models as public
import pytest
import torch
from torch import Tensor

from hanok.engine.adapters import Adapters
from hanok.errors import CheckpointError, ConfigError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.models.dora import WeightDecomposed, addition, row_norms
from hanok.models.linear import Linear
from hanok.models.lora import (
    LoraConfig,
    Merged,
    add_adapter,
    load_adapter,
    remove_adapter,
    restore_adapter,
    save_adapter,
)

pytestmark = pytest.mark.filterwarnings("ignore")
FAMILIES = {
    "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True},
    "qwen2": {"target_modules": ["q_proj", "k_proj", "o_proj"]},  # biases
    "phi3": {"target_modules": ["qkv_proj", "gate_up_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    "deepseek_v3": {"target_modules": ["q_a_proj", "kv_b_proj", "o_proj"]},
}


def ids() -> Tensor:
    return torch.randint(3, 61, (20,), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits_of(model: Decoder) -> Tensor:
    hidden, _ = model(ids(), torch.tensor([0, 20], dtype=torch.int32))
    return model.logits(hidden)


def moved(model: Decoder, config: LoraConfig, seed: int = 1) -> None:
    """A fresh adapter, then every part of it somewhere else."""
    add_adapter(model, config, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if ".adapters.default." in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_of_peft_gives_its_logits_and_goes_back(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = public.make(name)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", use_dora=True, **FAMILIES[name]
    )
    theirs = peft.get_peft_model(base, config).eval()
    for key, parameter in theirs.named_parameters():
        if "magnitude" in key:
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_model(tmp_path / "base")
    plain = logits_of(ours)
    config = load_adapter(ours, tmp_path / "adapter")
    assert config.dora
    expected = theirs(ids()[None]).logits[0]
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits_of(ours), expected, atol=1e-4, rtol=1e-4)
    save_adapter(ours, config, tmp_path / "again", base=str(tmp_path / "base"))
    merged = Merged(ours)
    torch.testing.assert_close(logits_of(ours), expected, atol=2e-4, rtol=2e-4)
    merged.unmerge()
    remove_adapter(ours, "default")
    assert torch.equal(logits_of(ours), plain)
    back = peft.PeftModel.from_pretrained(public.make(name), tmp_path / "again").eval()
    torch.testing.assert_close(back(ids()[None]).logits[0], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_part_of_a_joined_map_keeps_the_other_parts_lengths(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = public.make("phi3")
    base.save_pretrained(tmp_path / "base")
    ours = load_model(tmp_path / "base")
    config = LoraConfig(rank=3, targets=("q_proj", "up_proj"), dora=True)
    moved(ours, config)
    save_adapter(ours, config, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits_of(ours), theirs(ids()[None]).logits[0], atol=1e-4, rtol=1e-4)
    again = load_model(tmp_path / "base")
    add_adapter(again, config)
    restore_adapter(again, tmp_path / "adapter")
    assert torch.equal(logits_of(again), logits_of(ours))


def test_a_fresh_one_changes_no_bit_and_alone_learns(tmp_path: Path) -> None:
    public.make("llama").save_pretrained(tmp_path)
    model = load_model(tmp_path)
    before = logits_of(model)
    add_adapter(model, LoraConfig(rank=2, dora=True), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits_of(model), before)
    hidden, _ = model(ids(), torch.tensor([0, 20], dtype=torch.int32))
    model.logits(hidden).square().mean().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.rpartition(".")[2] for name in learning} == {"lora_A", "lora_B", "lora_magnitude_vector"}
    assert len(learning) == sum(".adapters." in name for name, _ in model.named_parameters())


def double_linear(dropout: float = 0.0) -> tuple[Linear, WeightDecomposed, Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = Linear(5, 7, bias=True).double()
    low = WeightDecomposed(5, 7, 2, scale=1.5, dropout=dropout).double()
    for parameter in (*linear.parameters(), *low.parameters()):
        parameter.data.normal_(generator=generator)
    linear.requires_grad_(False)
    linear.adapters = torch.nn.ModuleDict({"default": low})
    return linear, low, torch.randn(3, 5, dtype=torch.float64, generator=generator).requires_grad_()


def test_gradients_are_those_of_a_constant_norm() -> None:
    """Finite differences of the plain formula with the norm held, and the layer's own gradients equal to them."""
    linear, low, x = double_linear()
    norm = row_norms(linear.weight, low.delta()).detach()

    def plain(x: Tensor, a: Tensor, b: Tensor, magnitude: Tensor) -> Tensor:
        return x @ linear.weight.T + addition(x @ linear.weight.T, 1.5 * x @ a.T @ b.T, magnitude, norm)

    inputs = (x, low.lora_A, low.lora_B, low.lora_magnitude_vector)
    assert torch.autograd.gradcheck(plain, inputs)
    weights = torch.arange(21, dtype=torch.float64).view(3, 7)
    expected = torch.autograd.grad((plain(*inputs) * weights).sum(), inputs)
    y = linear(x)
    assert linear.bias is not None
    torch.testing.assert_close(y, x @ linear.effective_weight().T + linear.bias)
    for got, wanted in zip(torch.autograd.grad((y * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_values_and_gradients_of_pefts_layer(dropout: float) -> None:
    """With dropout too, from the same random numbers."""
    peft = pytest.importorskip("peft")
    linear, low, x = double_linear(dropout)
    holder = torch.nn.Sequential(torch.nn.Linear(5, 7).double())
    holder[0].load_state_dict({"weight": linear.weight, "bias": linear.bias})
    config = peft.LoraConfig(r=2, lora_alpha=3, lora_dropout=dropout, use_dora=True, target_modules=["0"])
    theirs = peft.get_peft_model(holder, config, autocast_adapter_dtype=False).base_model.model[0].double()
    pairs = {
        "lora_A": theirs.lora_A["default"].weight, "lora_B": theirs.lora_B["default"].weight,
        "lora_magnitude_vector": theirs.lora_magnitude_vector["default"].weight,
    }  # fmt: skip
    for name, parameter in pairs.items():
        parameter.data.copy_(getattr(low, name).data)
    results = []
    for layer in (theirs, linear):
        torch.manual_seed(3)
        y = layer.train()(x)
        y.square().sum().backward()
        results.append(y)
    torch.testing.assert_close(results[1], results[0])
    for name, parameter in pairs.items():
        torch.testing.assert_close(getattr(low, name).grad, parameter.grad)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    public.make("llama").save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    config = LoraConfig(rank=2, targets=("q_proj",), dora=True)
    moved(model, config)
    save_adapter(model, config, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="merge it into a model"):
        Adapters().load("one", tmp_path / "adapter", load_model(tmp_path / "base"), model=None)
    other = load_model(tmp_path / "base")
    add_adapter(other, LoraConfig(rank=2, targets=("q_proj",)))
    with pytest.raises(CheckpointError, match="not in the same way"):
        restore_adapter(other, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": False}))
    with pytest.raises(CheckpointError, match="lora_magnitude_vector"):
        load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
