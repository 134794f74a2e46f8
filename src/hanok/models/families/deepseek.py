"""DeepSeek-V2 and V3: rotated latent attention, low-rank queries, experts in groups beside shared ones."""

from __future__ import annotations

import re
from typing import Any

from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.families.family import ExpertList, Family, Prefix, Tensors, Values
from hanok.models.families.values import read_common, read_experts, write_common


def read_v2(values: Values) -> ModelConfig:
    grouped = values.get("topk_method", "greedy") == "group_limited_greedy"
    groups = (values["n_group"], values["topk_group"]) if grouped else (1, 1)
    return ModelConfig(
        **_read(values), moe=_read_moe(values, router="softmax", groups=groups, renormalise=False)
    )


def read_v3(values: Values) -> ModelConfig:
    groups = (values.get("n_group") or 1, values.get("topk_group") or 1)
    renormalise = values.get("norm_topk_prob", True)
    return ModelConfig(
        **_read(values), moe=_read_moe(values, router="sigmoid", groups=groups, renormalise=renormalise)
    )


def _read(values: Values) -> dict[str, Any]:
    bias = values.get("attention_bias", False)
    width = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    return read_common(values) | {
        "pattern": ("mla",), "head_dim": width, "num_kv_heads": None, "mla_rope": True,
        "q_lora_rank": values.get("q_lora_rank"), "kv_lora_rank": values["kv_lora_rank"],
        "qk_nope_head_dim": values["qk_nope_head_dim"], "qk_rope_head_dim": values["qk_rope_head_dim"],
        "v_head_dim": values["v_head_dim"], "qkv_bias": bias, "o_bias": bias,
    }  # fmt: skip


def _read_moe(values: Values, *, router: Any, groups: tuple[int, int], renormalise: bool) -> MoEConfig | None:
    if not read_experts(values):
        return None
    return MoEConfig(
        experts=read_experts(values), per_token=values["num_experts_per_tok"],
        width=values["moe_intermediate_size"], shared=values.get("n_shared_experts") or 0,
        first_dense=values.get("first_k_dense_replace", 0), router=router, groups=groups[0], top_groups=groups[1],
        scaling=values.get("routed_scaling_factor", 1.0), renormalise=renormalise,
    )  # fmt: skip


def write_v2(config: ModelConfig) -> dict[str, Any]:
    grouped = config.moe is not None and config.moe.groups > config.moe.top_groups
    return _write(config) | {"topk_method": "group_limited_greedy" if grouped else "greedy"}


def write_v3(config: ModelConfig) -> dict[str, Any]:
    return _write(config) | {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "rope_interleave": True}


def _write(config: ModelConfig) -> dict[str, Any]:
    values = write_common(config) | {
        "head_dim": config.qk_rope_head_dim, "num_key_value_heads": config.num_heads,
        "q_lora_rank": config.q_lora_rank, "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim, "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim, "attention_bias": config.qkv_bias,
    }  # fmt: skip
    moe = config.moe
    if moe is None:
        return values | {"n_routed_experts": None, "first_k_dense_replace": config.num_layers}
    return values | {
        "n_routed_experts": moe.experts, "num_experts_per_tok": moe.per_token, "moe_intermediate_size": moe.width,
        "n_shared_experts": moe.shared or None, "first_k_dense_replace": moe.first_dense, "n_group": moe.groups,
        "topk_group": moe.top_groups, "routed_scaling_factor": moe.scaling, "norm_topk_prob": moe.renormalise,
        "moe_layer_freq": 1,
    }  # fmt: skip


class _WithoutFutureLayers:
    """The layers behind the last predict further tokens; they are for training and speculation."""

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        def beyond(name: str) -> bool:
            match = re.match(r"layers\.(\d+)\.", name)
            return match is not None and int(match[1]) >= config.num_layers

        return {name: tensor for name, tensor in tensors.items() if not beyond(name)}

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return tensors


_LAYOUTS = (Prefix(), _WithoutFutureLayers(), ExpertList())
V2 = Family(
    model_type="deepseek_v2", architecture="DeepseekV2ForCausalLM", read=read_v2, write=write_v2, layouts=_LAYOUTS,
    examples="DeepSeek-V2, V2-Lite, V2.5",
)  # fmt: skip
V3 = Family(
    model_type="deepseek_v3", architecture="DeepseekV3ForCausalLM", read=read_v3, write=write_v3, layouts=_LAYOUTS,
    examples="DeepSeek-V3, R1; Kimi K2; Moonlight",
)  # fmt: skip
