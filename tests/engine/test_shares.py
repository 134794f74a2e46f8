"""Every kind of layer, dealt out to two and four: together they compute what one does. The processes are threads here;
`test_team.py` has real ones."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hanok.engine.parallel.sharded import load_sharded
from hanok.engine.parallel.shares import Share, check_shares, local_config
from hanok.engine.parallel.team import Team
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model, save_model
from hanok.models.checkpoint.sliced import load_slices
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.decoder import Decoder

WINDOWS = {"pattern": ("gqa", "swa"), "num_layers": 2, "sliding_window": 9}
LATENT = {"num_layers": 2, "kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
MODELS: dict[str, dict[str, Any]] = {
    "Llama with biases": {"pattern": ("gqa",), "num_layers": 1, "num_kv_heads": 2, "qkv_bias": True, "o_bias": True,
                          "mlp_bias": True, "tie_embeddings": False},
    "Qwen 3": {"pattern": ("gqa",), "num_layers": 2, "num_kv_heads": 1, "qk_norm": True, "intermediate_size": 83},
    "Gemma 2": {**WINDOWS, "norm": "rms_plus_one", "norm_placement": "both", "attention_softcap": 9.0,
                "logit_softcap": 7.0, "embedding_scale": 6.0, "activation": "gelu_tanh"},
    "OLMo 2": {"pattern": ("gqa",), "num_layers": 2, "num_kv_heads": 2, "qk_norm": True, "qk_norm_whole": True,
               "norm_placement": "post"},
    "GPT-2": {"pattern": ("gqa",), "num_layers": 2, "rope_theta": None, "learned_positions": True, "norm": "layer",
              "gated_mlp": False, "qkv_bias": True, "o_bias": True, "mlp_bias": True, "activation": "gelu"},
    "gpt-oss": {**WINDOWS, "attention_sinks": True, "qkv_bias": True, "o_bias": True, "num_kv_heads": 2,
                "moe": MoEConfig(experts=5, per_token=2, width=23, router="top_softmax", biases=True, swiglu_limit=7.0)},
    "DeepSeek": {**LATENT, "pattern": ("mla",), "mla_rope": True, "q_lora_rank": 14,
                 "moe": MoEConfig(experts=6, per_token=2, width=18, shared=2, first_dense=1, router="sigmoid", groups=3,
                                  top_groups=2)},
    "Kimi Linear": {**LATENT, "pattern": ("kda", "mla"), "moe": MoEConfig(experts=4, per_token=2, width=10, first_dense=1,
                                                                         router="sigmoid", shared=1)},
    "Qwen 3 Next": {"pattern": ("gdn", "gqa"), "num_layers": 2, "num_kv_heads": 2, "attention_gate": True, "qk_norm": True,
                    "rope_fraction": 0.5, "linear_key_heads": 2, "linear_value_heads": 8, "linear_key_dim": 6,
                    "linear_value_dim": 5,
                    "moe": MoEConfig(experts=4, per_token=2, width=12, shared=1, shared_width=15, shared_gate=True)},
}  # fmt: skip


def config_of(name: str) -> ModelConfig:
    sizes = {
        "vocab_size": 101,
        "hidden_size": 40,
        "num_heads": 4,
        "head_dim": 8,
        "intermediate_size": 80,
        "max_context": 256,
    }
    return ModelConfig(**{**sizes, **MODELS[name]})


class ThreadTeam(Team):
    """The same sums without processes."""

    def __init__(self, share: Share, table: list[Tensor], barrier: threading.Barrier) -> None:
        self.share, self._table, self._barrier = share, table, barrier
        self.broken, self.on_break = False, None

    def _all(self, mine: Tensor) -> list[Tensor]:
        self._table[self.share.rank] = mine
        self._barrier.wait(30)
        everybodys = [tensor.clone() for tensor in self._table]
        self._barrier.wait(30)
        return everybodys

    def sum(self, part: Tensor) -> Tensor:
        return torch.stack(self._all(part)).sum(0)

    def join_columns(self, part_Nv: Tensor, width: int) -> Tensor:
        return torch.cat(self._all(part_Nv), dim=1)


def in_threads(size: int, work: Callable[[ThreadTeam], Any]) -> list[Any]:
    table, barrier = [torch.empty(0)] * size, threading.Barrier(size)
    teams = [ThreadTeam(Share(rank, size), table, barrier) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, teams))


def logits(model: Decoder) -> Tensor:
    """Of two prompts read in one piece and in two, then two tokens one by one."""
    ids = torch.randint(0, 101, (84,), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        state, found = model.new_state(2), []
        place = 0
        for lengths in ((70, 3), (7, 0), (1, 1), (1, 1)):
            bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32)
            hidden_ND, _ = model(ids[place : place + sum(lengths)], bounds, state)
            found.append(model.logits(hidden_ND))
            place += sum(lengths)
    return torch.cat(found)


@pytest.fixture(scope="module", params=MODELS)
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Decoder(config_of(request.param))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not name.endswith(("A_log", "dt_bias")):
            parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    directory = tmp_path_factory.mktemp("model")
    save_model(model, directory)
    return directory


@pytest.mark.parametrize("size", [2, 4])
def test_together_they_compute_the_same(model_dir: Path, size: int) -> None:
    whole = load_model(model_dir)
    expected = logits(whole)
    for found in in_threads(size, lambda team: logits(load_sharded(model_dir, team))):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1  # else the comparison says nothing


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_caches_have_the_local_heads(name: str, size: int) -> None:
    config = config_of(name)
    with torch.device("meta"):
        one = Decoder(config).new_state(1)
        mine = Decoder(local_config(config, Share(size - 1, size))).new_state(1)
    shared = {
        "kda": size,
        "gdn": size,
        "mla": 1,
        "gqa": min(size, config.kv_heads),
        "swa": min(size, config.kv_heads),
    }
    for kind, part, whole in zip(config.layers, mine.layers, one.layers, strict=True):
        for entry in set(part) - ({"conv"} if kind == "gdn" else set()):
            numbers = [math.prod(n for n in state[entry].shape if n) for state in (part, whole)]
            assert numbers[0] * shared[kind] == numbers[1], (kind, entry)


def test_parts_are_all_of_it() -> None:
    for size in (1, 2, 3, 7):
        for whole in (7, 8, 101):
            parts = [Share(rank, size).part(whole) for rank in range(size)]
            assert [n for part in parts for n in range(whole)[part]] == list(range(whole))


def test_fewer_key_heads_than_processes_are_held_by_several() -> None:
    assert [Share(rank, 4).heads(16, 2) for rank in range(4)] == [slice(0, 8)] * 2 + [slice(8, 16)] * 2


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 3, r"4 heads cannot be dealt out evenly to 3 processes; start 1, 2 or 4 processes"),
        (
            {"pattern": ("gqa",), "num_heads": 12, "num_kv_heads": 4},
            6,
            "4 key heads for 6 processes: neither divides the other",
        ),
        ({"pattern": ("gdn",), "linear_value_heads": 6}, 4, "6 value heads of delta layers"),
        ({"moe": MoEConfig(experts=2, per_token=1, width=3)}, 4, "3 channels of an expert for 4 processes"),
        ({"vocab_size": 3}, 4, "3 tokens of the vocabulary"),
    ],
)
def test_a_model_that_cannot_be_shared_is_refused(changes: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shares(ModelConfig(**{"vocab_size": 101, "hidden_size": 48, **changes}), size)


def test_a_process_holds_its_slices_alone(model_dir: Path) -> None:
    _, parts = load_slices(model_dir, lambda name, tensor, config: tensor[:1])
    for name, tensor in parts.items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
        assert len(tensor) == 1
