"""Adapters on maps that a family's files join: the same numbers as PEFT's, and ours again as they were."""

from __future__ import annotations

import json
from pathlib import Path

import public_models as public
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanok.errors import CheckpointError
from hanok.models.checkpoint import load_model
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear, LowRank
from hanok.models.lora import LoraConfig, add_adapter, load_adapter, restore_adapter, save_adapter

pytestmark = pytest.mark.filterwarnings("ignore")
CASES: dict[str, dict] = {
    "every map": {},
    "some parts, rsLoRA": {"targets": ("q_proj", "v_proj", "up_proj", "o_proj"), "rslora": True},
    "of several ranks and strengths": {"ranks": {"k_proj": 2, "up_proj": 7}, "alphas": {"v_proj": 3.0, "q_proj": 10.0}},
}  # fmt: skip


def ids() -> Tensor:
    return torch.randint(3, 61, (40,), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits_of(model: Decoder) -> Tensor:
    hidden, _ = model(ids(), torch.tensor([0, 40], dtype=torch.int32))
    return model.logits(hidden)


def lows(model: Decoder) -> dict[str, LowRank]:
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and module.adapters:
            low = module.adapters["default"]
            assert isinstance(low, LowRank)
            found[name] = low
    return found


def adapted(name: str, folder: Path, **options) -> tuple[Decoder, LoraConfig]:
    public.make(name).save_pretrained(folder)
    model = load_model(folder)
    config = LoraConfig(rank=4, alpha=6, **options)
    generator = torch.Generator().manual_seed(3)
    add_adapter(model, config, generator=generator)
    for low in lows(model).values():
        low.lora_B.data.normal_(0, 0.2, generator=generator)
    return model, config


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["phi3", "gpt2"])
def test_peft_loads_ours_and_so_do_we(name: str, case: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    options = dict(CASES[case])
    if name == "gpt2" and "ranks" in options:
        options["ranks"] = {"k_proj": 2}
    ours, config = adapted(name, tmp_path / "base", **options)
    save_adapter(ours, config, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(public.make(name), tmp_path / "adapter").eval()
    loaded = {key for key, _ in theirs.named_parameters() if "lora_" in key}
    assert len(loaded) == len(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    torch.testing.assert_close(logits_of(ours), theirs(ids()[None]).logits[0], atol=1e-4, rtol=1e-4)
    again = load_model(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    first, second = lows(ours), lows(again)
    assert set(first) == set(second)
    for key, low in first.items():
        assert torch.equal(low.lora_A, second[key].lora_A)
        torch.testing.assert_close(low.delta(), second[key].delta(), atol=1e-6, rtol=1e-6)
    fresh = load_model(tmp_path / "base")
    add_adapter(fresh, config)
    restore_adapter(fresh, tmp_path / "adapter")
    for key, low in lows(fresh).items():
        assert low.scale == first[key].scale
        torch.testing.assert_close(low.lora_B, first[key].lora_B, atol=1e-7, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["phi3", "gpt2"])
def test_what_peft_trained_keeps_its_rank(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    targets = {"phi3": ["qkv_proj", "gate_up_proj"], "gpt2": ["c_attn", "attn.c_proj"]}[name]
    base = public.make(name)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights=False, target_modules=targets, task_type="CAUSAL_LM",
        fan_in_fan_out=name == "gpt2", alpha_pattern={targets[0]: 11},
    )  # fmt: skip
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "base")
    read = load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(logits_of(ours), theirs(ids()[None]).logits[0], atol=1e-4, rtol=1e-4)
    save_adapter(ours, read, tmp_path / "ours")
    before, after = (load_file(tmp_path / part / "adapter_model.safetensors") for part in ("theirs", "ours"))
    assert {key: tuple(t.shape) for key, t in before.items()} == {
        key: tuple(t.shape) for key, t in after.items()
    }
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key])
    again = peft.PeftModel.from_pretrained(public.make(name), tmp_path / "ours").eval()
    assert torch.equal(again(ids()[None]).logits, theirs(ids()[None]).logits)


@pytest.mark.parametrize(
    "written", ["[", '{"%s": [4, 4]}', '{"%s": [6, 6]}', '{"%s": [4, -4, 12]}', '{"%s": 4}', '{"%s": ["4"]}']
)
def test_ranks_that_do_not_fit(written: str, tmp_path: Path) -> None:
    ours, config = adapted("phi3", tmp_path / "base")
    save_adapter(ours, config, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        where = next(iter(json.loads(opened.metadata()["hanok.parts"])))
    written = written.replace("%s", where)
    save_file(tensors, file, metadata={"format": "pt", "hanok.parts": written})
    with pytest.raises(CheckpointError):
        load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
