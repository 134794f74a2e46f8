"""Qwen 3 with experts."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.families.family import ExpertList, Family, Prefix, Values
from hanok.models.families.qwen2 import read_windows, write_windows
from hanok.models.families.values import read_common, read_experts, write_common


def read(values: Values) -> ModelConfig:
    bias = values.get("attention_bias", False)
    fields = read_common(values) | read_windows(values)
    return ModelConfig(**fields, qk_norm=True, qkv_bias=bias, o_bias=bias, moe=MoEConfig(**read_moe(values)))


def write(config: ModelConfig) -> dict[str, Any]:
    values = write_common(config) | write_windows(config) | write_moe(config)
    return values | {"attention_bias": config.qkv_bias}


def read_moe(values: Values) -> dict[str, Any]:
    """Fields of MoEConfig that the sparse models of Qwen share."""
    dense = set(values.get("mlp_only_layers") or ())
    step = values.get("decoder_sparse_step", 1)
    layers = [i for i in range(values["num_hidden_layers"]) if i not in dense and (i + 1) % step == 0]
    everywhere = len(layers) == values["num_hidden_layers"]
    return {
        "experts": read_experts(values), "per_token": values["num_experts_per_tok"],
        "width": values["moe_intermediate_size"], "renormalise": values.get("norm_topk_prob", False),
        "balance_loss": values.get("router_aux_loss_coef", 0.001), "layers": None if everywhere else tuple(layers),
    }  # fmt: skip


def write_moe(config: ModelConfig) -> dict[str, Any]:
    moe = config.moe
    assert moe is not None
    return {
        "num_experts": moe.experts, "num_experts_per_tok": moe.per_token, "moe_intermediate_size": moe.width,
        "norm_topk_prob": moe.renormalise, "router_aux_loss_coef": moe.balance_loss, "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(config.num_layers) if not config.is_sparse(i)],
    }  # fmt: skip


FAMILY = Family(
    model_type="qwen3_moe", architecture="Qwen3MoeForCausalLM", read=read, write=write,
    layouts=(Prefix(), ExpertList()), examples="Qwen3-30B-A3B, Qwen3-235B-A22B",
)  # fmt: skip
