"""Qwen3-Next: the gated delta rule, gated attention on a quarter of each head's channels, experts and a weighed shared one."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.families.family import ExpertList, Family, Ignored, Prefix, Rename, Tensors, Values
from hanok.models.families.qwen3_moe import read_moe, write_moe
from hanok.models.families.values import (
    read_common,
    read_experts,
    read_layer_types,
    write_common,
    write_layer_types,
)


def read(values: Values) -> ModelConfig:
    every, count = values.get("full_attention_interval", 4), values["num_hidden_layers"]
    default = tuple("gqa" if (i + 1) % every == 0 else "gdn" for i in range(count))
    fields = read_common({"partial_rotary_factor": 0.25, **values})
    bias = values.get("attention_bias", False)
    moe = None
    if read_experts(values):
        moe = MoEConfig(
            **read_moe({"norm_topk_prob": True, **values}), shared=1, shared_gate=True,
            shared_width=values["shared_expert_intermediate_size"],
        )  # fmt: skip
    fields |= {
        "pattern": read_layer_types(values, default=default),
        "norm": "rms_plus_one",
        "qk_norm": True,
        "attention_gate": True,
        "qkv_bias": bias,
        "o_bias": bias,
        "conv_size": values["linear_conv_kernel_dim"],
        "linear_key_heads": values["linear_num_key_heads"],
        "linear_value_heads": values["linear_num_value_heads"],
        "linear_key_dim": values["linear_key_head_dim"],
        "linear_value_dim": values["linear_value_head_dim"],
        "moe": moe,
    }
    return ModelConfig(**fields)


def write(config: ModelConfig) -> dict[str, Any]:
    values = write_common(config) | {
        "layer_types": write_layer_types(config), "attention_bias": config.qkv_bias,
        "linear_conv_kernel_dim": config.conv_size, "linear_num_key_heads": config.linear_key_heads,
        "linear_num_value_heads": config.linear_value_heads, "linear_key_head_dim": config.linear_key_dim,
        "linear_value_head_dim": config.linear_value_dim,
    }  # fmt: skip
    if config.moe is None:
        return values | {"num_experts": 0}
    return values | write_moe(config) | {"shared_expert_intermediate_size": config.moe.shared_width}


class _DeltaLayers:
    """Their projections lie grouped by key head: q, k, then v and z of the value heads that it serves; b and a alike."""

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            name = name.replace(".linear_attn.", ".self_attn.")
            base = name.rpartition(".in_proj_")[0]
            if name.endswith(".in_proj_qkvz.weight"):
                found |= _by_part(tensor, config, base, ("q", "k", "v", "z"), _qkvz_rows(config))
            elif name.endswith(".in_proj_ba.weight"):
                found |= _by_part(tensor, config, base, ("b", "a"), [_repeats(config)] * 2)
            else:
                found[name] = tensor
        return found

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            match = re.match(r"layers\.(\d+)\.self_attn\.", name)
            if match is None or config.layers[int(match[1])] != "gdn":
                found[name] = tensor
                continue
            part = re.search(r"\.([qkvzba])_proj\.weight$", name)
            base = name.rpartition(".")[0].rpartition(".")[0]
            target = base.replace(".self_attn", ".linear_attn")
            if part is None:
                found[name.replace(".self_attn.", ".linear_attn.")] = tensor
            elif part[1] == "q":
                found[f"{target}.in_proj_qkvz.weight"] = _joined(tensors, config, base, "qkvz")
            elif part[1] == "b":
                found[f"{target}.in_proj_ba.weight"] = _joined(tensors, config, base, "ba")
        return found


def _repeats(config: ModelConfig) -> int:
    return config.linear_value_heads // config.linear_key_heads


def _qkvz_rows(config: ModelConfig) -> list[int]:
    values = _repeats(config) * config.linear_value_dim
    return [config.linear_key_dim, config.linear_key_dim, values, values]


def _by_part(
    tensor: Tensor, config: ModelConfig, base: str, names: tuple[str, ...], rows: list[int]
) -> Tensors:
    parts = tensor.view(config.linear_key_heads, sum(rows), -1).split(rows, dim=1)
    return {f"{base}.{name}_proj.weight": p.flatten(0, 1) for name, p in zip(names, parts, strict=True)}


def _joined(tensors: Tensors, config: ModelConfig, base: str, names: str) -> Tensor:
    heads = config.linear_key_heads
    parts = [tensors[f"{base}.{name}_proj.weight"].unflatten(0, (heads, -1)) for name in names]
    return torch.cat(parts, dim=1).flatten(0, 1)


FAMILY = Family(
    model_type="qwen3_next", architecture="Qwen3NextForCausalLM", read=read, write=write,
    layouts=(
        Prefix(), Ignored(r"^mtp\."), ExpertList(), Rename("mlp.shared_expert", "mlp.shared_experts"),
        Rename("mlp.shared_expert_gate", "mlp.shared_gate"), _DeltaLayers(),
    ),
    examples="Qwen3-Next-80B-A3B",
)  # fmt: skip
