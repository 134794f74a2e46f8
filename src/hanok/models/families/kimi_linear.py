"""Kimi Linear: delta attention and latent attention without positions, experts with a sigmoid router.

Our own hybrids are written in this layout. Read are the names of the released files and those that `transformers` has
in memory (gates below `forget_gate`, the three convolutions in one).
"""

from __future__ import annotations

from typing import Any

from hanok.errors import CheckpointError
from hanok.models.config import ModelConfig, MoEConfig
from hanok.models.families.family import ExpertList, Family, Ignored, Prefix, Rename, Tensors, Values
from hanok.models.families.values import read_experts

_SPARSE = ("gate", "experts", "shared_experts")


def read(values: Values) -> ModelConfig:
    linear = values["linear_attn_config"]
    full, count = set(linear["full_attn_layers"]), values["num_hidden_layers"]
    for key, wanted in (("q_lora_rank", None), ("mla_use_nope", True)):
        if values.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{key} = {values[key]} is not supported", remedy=f"Kimi Linear has {wanted}"
            )
    if linear["num_heads"] != values["num_attention_heads"]:
        raise CheckpointError(
            f"delta attention has {linear['num_heads']} heads, latent attention {values['num_attention_heads']}",
            remedy="only equal numbers are supported",
        )
    return ModelConfig(
        family="kimi_linear", vocab_size=values["vocab_size"], hidden_size=values["hidden_size"], num_layers=count,
        pattern=tuple("mla" if i + 1 in full else "kda" for i in range(count)), rope_theta=None,
        num_heads=linear["num_heads"], head_dim=linear["head_dim"], conv_size=linear["short_conv_kernel_size"],
        kv_lora_rank=values["kv_lora_rank"], qk_nope_head_dim=values["qk_nope_head_dim"],
        qk_rope_head_dim=values["qk_rope_head_dim"], v_head_dim=values["v_head_dim"],
        intermediate_size=values["intermediate_size"], moe=_read_moe(values),
        tie_embeddings=values.get("tie_word_embeddings", False), norm_eps=values.get("rms_norm_eps", 1e-5),
        max_context=values.get("model_max_length", 1_048_576),
        initializer_range=values.get("initializer_range", 0.02),
    )  # fmt: skip


def _read_moe(values: Values) -> MoEConfig | None:
    first = values.get("first_k_dense_replace", 1)
    if not read_experts(values) or first >= values["num_hidden_layers"]:
        return None
    return MoEConfig(
        experts=read_experts(values), per_token=values["num_experts_per_token"], width=values["moe_intermediate_size"],
        shared=values.get("num_shared_experts") or 0, first_dense=first, router="sigmoid",
        groups=values.get("num_expert_group", 1), top_groups=values.get("topk_group", 1),
        scaling=values.get("routed_scaling_factor", 1.0), renormalise=values.get("moe_renormalize", True),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    layers, moe = config.layers, config.moe
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size, "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads, "head_dim": config.dim_of_head, "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu", "initializer_range": config.initializer_range,
        "max_position_embeddings": config.max_context, "model_max_length": config.max_context,
        "kv_lora_rank": config.kv_lora_rank, "q_lora_rank": None, "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim, "v_head_dim": config.v_head_dim, "mla_use_nope": True,
        "rope_theta": 10000.0, "tie_word_embeddings": False,  # their class has no tie: the head is written out
        "linear_attn_config": {  # layers are counted from 1
            "full_attn_layers": [i + 1 for i, kind in enumerate(layers) if kind == "mla"],
            "kda_layers": [i + 1 for i, kind in enumerate(layers) if kind == "kda"],
            "head_dim": config.dim_of_head, "num_heads": config.num_heads, "short_conv_kernel_size": config.conv_size,
        },
        "num_experts": 0 if moe is None else moe.experts,
        "first_k_dense_replace": config.num_layers if moe is None else moe.first_dense, "moe_layer_freq": 1,
    }  # fmt: skip
    if moe is not None:
        values |= {
            "num_experts_per_token": moe.per_token, "num_shared_experts": moe.shared,
            "moe_intermediate_size": moe.width, "moe_renormalize": moe.renormalise,
            "moe_router_activation_func": "sigmoid", "use_grouped_topk": True, "num_expert_group": moe.groups,
            "topk_group": moe.top_groups, "routed_scaling_factor": moe.scaling,
        }  # fmt: skip
    return values


class _OtherNames:
    """Of `transformers` in memory; and it writes the dense layers below `block_sparse_moe` too."""

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        inner, found = config.num_heads * config.dim_of_head, {}
        for name, tensor in tensors.items():
            name = name.replace(".self_attn.forget_gate.", ".self_attn.").replace(
                ".block_sparse_moe.", ".mlp."
            )
            if name.endswith(".self_attn.conv1d.weight") and tensor.shape[0] == 3 * inner:
                for one, part in zip("qkv", tensor.split(inner), strict=True):
                    found[name.replace(".conv1d.", f".{one}_conv1d.")] = part
            elif name.endswith(".A_log"):
                found[name] = tensor.reshape(1, 1, -1, 1)
            else:
                found[name] = tensor
        return found

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return tensors


class _HeadOfItsOwn:
    """Written out even where ours is the embedding."""

    def incoming(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        return tensors

    def outgoing(self, tensors: Tensors, config: ModelConfig) -> Tensors:
        if "embed_tokens.weight" not in tensors:  # an adapter
            return tensors
        return {"lm_head.weight": tensors["embed_tokens.weight"].clone()} | tensors


FAMILY = Family(
    model_type="kimi_linear", architecture="KimiLinearForCausalLM", read=read, write=write,
    layouts=(
        Prefix(),
        Ignored(r"rotary_emb\.inv_freq$"),
        _OtherNames(),
        *(Rename(f"block_sparse_moe.{part}", f"mlp.{part}") for part in _SPARSE),
        ExpertList("w1", "w3", "w2"),
        _HeadOfItsOwn(),
    ),
    examples="Kimi-Linear-48B-A3B; our hybrids",
)  # fmt: skip
