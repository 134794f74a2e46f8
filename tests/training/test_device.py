"""Nothing that the model or the loop makes lies on a device of its own: checked without a GPU.

Every tensor that is made without being told where goes to "meta" here, while weights and batches lie on the CPU. A product of
the two is an error, so a forgotten device is found by running a step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch

from hanok.errors import CheckpointError, ConfigError
from hanok.kernels import conv, cross_entropy, gates, kda, norms
from hanok.models.config import ModelConfig, MoEConfig, RopeScaling
from hanok.models.decoder import Decoder
from hanok.training.config import TrainConfig
from hanok.training.device import choose_device, random_state, set_random_state
from hanok.training.objectives.next_token import next_token_loss
from hanok.training.optim import Optimiser
from hanok.training.packing import PackedSequence, RaggedBatch, pack
from hanok.training.run import train
from hanok.training.validation import HeldOut, validate

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "head_dim": 16, "intermediate_size": 48,
    "max_context": 512, "pattern": ("gqa",),
}  # fmt: skip
LONG = RopeScaling(
    kind="longrope", factor=4.0, original_context=64, short_factor=(1.0,) * 8, long_factor=(2.0,) * 8
)
MODELS: dict[str, dict[str, Any]] = {
    "hybrid": {"pattern": ("kda", "mla"), "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
               "mtp_layers": 1},
    "windows, caps, scale": {"pattern": ("swa", "gqa"), "sliding_window": 9, "attention_softcap": 20.0, "logit_softcap": 30.0,
                             "embedding_scale": 5.0, "norm_placement": "both"},
    "sinks, YaRN": {"attention_sinks": True, "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_context=64)},
    "LongRoPE": {"rope_scaling": LONG},
    "learnt positions": {"learned_positions": True, "rope_theta": None, "norm": "layer", "gated_mlp": False},
    "gated delta net": {"pattern": ("gdn",), "linear_key_heads": 1, "linear_value_heads": 2, "linear_key_dim": 8,
                        "linear_value_dim": 8},
    "experts": {"moe": MoEConfig(experts=8, per_token=2, width=16, shared=1, router="sigmoid", groups=4, top_groups=2)},
    "experts, softmax": {"moe": MoEConfig(experts=4, per_token=2, width=16, router="softmax")},
}  # fmt: skip


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of the CPU are for its tensors alone; without them the code of every other device runs."""
    for module in (conv, norms, gates, cross_entropy):
        monkeypatch.setattr(module, "runs_native", lambda x: False)
    monkeypatch.setattr(kda, "native_available", lambda: False)


def sequences(lengths: tuple[int, ...] = (70, 3, 1, 40)) -> list[PackedSequence]:
    rng = np.random.default_rng(0)
    made = []
    for number, length in enumerate(lengths):
        ids = rng.integers(3, 50, length + 1)
        made.append(PackedSequence(ids[:-1], ids[1:], rng.random(length) < 0.8, str(number)))
    return made


def step(model: Decoder, optimiser: Optimiser, batch: RaggedBatch) -> float:
    loss = next_token_loss(model, batch, step_tokens=90, dtype=torch.float32, mtp_weight=0.1)
    loss.objective.backward()
    optimiser.gradient_norm()
    optimiser.step(1.0, gradient_scale=0.5)
    model.after_step()
    return float(loss.total)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_a_step_is_told_where_to_be(name: str) -> None:
    def made() -> tuple[Decoder, Optimiser]:
        model = Decoder(ModelConfig(**SHAPE | MODELS[name])).train()
        hints, parameters = model.parameter_groups_hint(), dict(model.named_parameters())
        return model, Optimiser(parameters, hints, TrainConfig(max_steps=1), dtype=torch.float32)

    model, optimiser = made()
    plain, other = made()
    held_out = [HeldOut("text-validation", sequences((20, 9)), 29)]
    batch = pack(sequences())
    ones = torch.arange(len(batch.cu_seqlens), dtype=torch.int32)
    with torch.device("meta"):
        found = [step(model, optimiser, batch) for _ in range(2)]
        model.eval()
        with torch.no_grad():
            state = model.new_state(len(batch.cu_seqlens) - 1)
            hidden, state = model(batch.ids_N, batch.cu_seqlens, state)
            hidden, _ = model(batch.ids_N[: len(ones) - 1], ones, state)
    assert hidden.device.type == "cpu"
    assert found == [step(plain, other, batch) for _ in range(2)]
    assert validate(model, held_out, special_ids=[0], max_tokens=64, stopped=lambda: False)


def test_the_check_finds_a_tensor_that_was_forgotten(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Decoder(ModelConfig(**SHAPE | MODELS["hybrid"]))
    original = kda.chunked_kda

    def forgetful(q: torch.Tensor, *others: Any, **options: Any) -> Any:
        return original(q + torch.zeros(q.shape), *others, **options)

    monkeypatch.setattr(kda, "chunked_kda", forgetful)
    batch = pack(sequences())
    # a sum of "meta" and real numbers is refused in one of two ways, by which operation meets it first
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError)):
        float(next_token_loss(model, batch, step_tokens=9, dtype=torch.float32, mtp_weight=0.0).total)


def test_the_choice_and_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == ("cpu", "cpu: as configured")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == ("cpu", "cpu: PyTorch finds no GPU")
    with pytest.raises(ConfigError, match="finds no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a name")
    assert choose_device("auto", processes=2) == ("cuda", "cuda: there is one (a name)")
    assert choose_device("auto", processes=3) == ("cpu", "cpu: 2 GPUs for 3 processes")
    with pytest.raises(ConfigError, match="2 GPUs for 3 processes"):
        choose_device("cuda", processes=3)


def test_the_random_state_comes_back_or_is_missed() -> None:
    cpu = torch.device("cpu")
    kept = random_state(cpu)
    drawn = torch.rand(3)
    set_random_state(kept, cpu)
    assert torch.equal(torch.rand(3), drawn)
    with pytest.raises(CheckpointError, match="GPU"):
        set_random_state(kept, torch.device("cuda"))


def test_the_plan_says_where(shards: Path, tmp_path: Path) -> None:
    train(tiny.tiny_config(max_steps=1, device="cpu"), shards=shards, out=tmp_path, model=tiny.tiny_model())
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["device"], plan["device_reason"]) == ("cpu", "cpu: as configured")
