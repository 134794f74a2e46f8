"""Our configurations and tensor names in the Hugging Face layout, and back.

The hybrid of delta and latent attention is `kimi_linear`; grouped-query attention alone is `llama` or, with QK-norm,
`qwen3`; whatever these cannot express is `hanok`. Our own configuration is kept beside, under the key "hanok".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hanok.errors import CheckpointError
from hanok.models.config import ModelConfig, MoEConfig

ARCHITECTURES = {
    "kimi_linear": "KimiLinearForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "hanok": "HanokForCausalLM",
}


def model_type(config: ModelConfig) -> str:
    """The family that expresses this configuration, or "hanok"."""
    mixers = set(config.layers)
    if (
        mixers <= {"kda", "mla"}
        and config.kda_gate == "softplus"
        and (config.moe is None or config.moe.router == "sigmoid")
    ):
        return "kimi_linear"
    if mixers == {"gqa"} and config.moe is None and config.rope_theta is not None:
        return "qwen3" if config.qk_norm else "llama"
    return "hanok"


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """`config.json`."""
    kind = model_type(config)
    common: dict[str, Any] = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.dim_of_head,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "initializer_range": config.initializer_range,
        "max_position_embeddings": config.max_context,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "hanok": dataclasses.asdict(config),
    }
    if kind == "kimi_linear":
        common |= _kimi(config)
    elif kind in ("llama", "qwen3"):
        common |= {
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "attention_bias": False,
        }
    return common


def from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """A configuration from `config.json`.

    Raises:
        CheckpointError: a family that is not supported, or keys that are missing.
    """
    try:
        if "hanok" in values:
            return _own(values["hanok"])
        kind = values["model_type"]
        if kind == "kimi_linear":
            return _from_kimi(values)
        if kind in ("llama", "qwen3"):
            return _from_llama(values, qk_norm=kind == "qwen3")
    except KeyError as error:
        raise CheckpointError(
            f"config.json lacks {error}", remedy="is it a whole model directory?"
        ) from error
    except TypeError as error:
        raise CheckpointError(f"config.json: {error}", remedy="it was written by another version") from error
    raise CheckpointError(
        f'model_type "{kind}" is not supported', remedy="known: kimi_linear, llama, qwen3, hanok"
    )


def _own(values: Mapping[str, Any]) -> ModelConfig:
    moe = values.get("moe")
    return ModelConfig(
        **{**values, "pattern": tuple(values["pattern"]), "moe": None if moe is None else MoEConfig(**moe)}
    )


def _kimi(config: ModelConfig) -> dict[str, Any]:
    layers = config.layers
    moe = config.moe
    values: dict[str, Any] = {
        "kv_lora_rank": config.kv_lora_rank,
        "q_lora_rank": None,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "mla_use_nope": True,
        "rope_theta": 10000.0,
        "num_key_value_heads": config.num_heads,
        "tie_word_embeddings": False,  # their class has no tie: the head is written out
        "model_max_length": config.max_context,
        "linear_attn_config": {  # layers are counted from 1
            "full_attn_layers": [i + 1 for i, kind in enumerate(layers) if kind == "mla"],
            "kda_layers": [i + 1 for i, kind in enumerate(layers) if kind == "kda"],
            "head_dim": config.dim_of_head,
            "num_heads": config.num_heads,
            "short_conv_kernel_size": config.conv_size,
        },
        "num_experts": 0 if moe is None else moe.experts,
        "first_k_dense_replace": config.num_layers if moe is None else moe.first_dense,
        "moe_layer_freq": 1,
    }
    if moe is not None:
        values |= {
            "num_experts_per_token": moe.per_token,
            "num_shared_experts": moe.shared,
            "moe_intermediate_size": moe.width,
            "moe_renormalize": moe.renormalise,
            "moe_router_activation_func": "sigmoid",
            "use_grouped_topk": True,
            "num_expert_group": moe.groups,
            "topk_group": moe.top_groups,
            "routed_scaling_factor": moe.scaling,
        }
    return values


def _from_kimi(values: Mapping[str, Any]) -> ModelConfig:
    linear = values["linear_attn_config"]
    full = set(linear["full_attn_layers"])
    count = values["num_hidden_layers"]
    if linear["num_heads"] != values["num_attention_heads"]:
        raise CheckpointError(
            "delta and latent attention have different numbers of heads", remedy="not supported yet"
        )
    moe = None
    if values.get("num_experts") and values.get("first_k_dense_replace", 1) < count:
        moe = MoEConfig(
            experts=values["num_experts"], per_token=values["num_experts_per_token"],
            width=values["moe_intermediate_size"], shared=values.get("num_shared_experts", 0),
            first_dense=values.get("first_k_dense_replace", 1), router="sigmoid",
            groups=values.get("num_expert_group", 1), top_groups=values.get("topk_group", 1),
            scaling=values.get("routed_scaling_factor", 1.0), renormalise=values.get("moe_renormalize", True),
        )  # fmt: skip
    return ModelConfig(
        vocab_size=values["vocab_size"], hidden_size=values["hidden_size"], num_layers=count,
        pattern=tuple("mla" if i + 1 in full else "kda" for i in range(count)),
        num_heads=linear["num_heads"], head_dim=linear["head_dim"], conv_size=linear["short_conv_kernel_size"],
        kv_lora_rank=values["kv_lora_rank"], qk_nope_head_dim=values["qk_nope_head_dim"],
        qk_rope_head_dim=values["qk_rope_head_dim"], v_head_dim=values["v_head_dim"],
        intermediate_size=values["intermediate_size"], moe=moe, tie_embeddings=values.get("tie_word_embeddings", False),
        norm_eps=values.get("rms_norm_eps", 1e-5), max_context=values.get("model_max_length", 1_048_576),
    )  # fmt: skip


def _from_llama(values: Mapping[str, Any], *, qk_norm: bool) -> ModelConfig:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(
            f'rope_type "{rope["rope_type"]}" is not supported yet', remedy="use a model without it"
        )
    return ModelConfig(
        vocab_size=values["vocab_size"], hidden_size=values["hidden_size"], num_layers=values["num_hidden_layers"],
        pattern=("gqa",), num_heads=values["num_attention_heads"], num_kv_heads=values.get("num_key_value_heads"),
        head_dim=values.get("head_dim"), qk_norm=qk_norm,
        rope_theta=rope.get("rope_theta", values.get("rope_theta", 10000.0)),
        intermediate_size=values["intermediate_size"], tie_embeddings=values.get("tie_word_embeddings", False),
        norm_eps=values.get("rms_norm_eps", 1e-6), max_context=values.get("max_position_embeddings", 2048),
    )  # fmt: skip


def tensors_to_hf(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names to those of the checkpoints; stacked experts become one tensor per expert and matrix."""
    renamed: dict[str, Tensor] = {}
    if config.tie_embeddings and model_type(config) == "kimi_linear":
        renamed["lm_head.weight"] = tensors["embed_tokens.weight"].clone()
    for name, tensor in tensors.items():
        if name.endswith("mlp.experts.gate_up_proj"):
            base = name.replace(".mlp.experts.gate_up_proj", ".block_sparse_moe.experts")
            for e, both in enumerate(tensor.unbind(0)):
                gate, up = both.chunk(2, dim=0)
                renamed[f"model.{base}.{e}.w1.weight"] = gate.contiguous()
                renamed[f"model.{base}.{e}.w3.weight"] = up.contiguous()
        elif name.endswith("mlp.experts.down_proj"):
            base = name.replace(".mlp.experts.down_proj", ".block_sparse_moe.experts")
            for e, down in enumerate(tensor.unbind(0)):
                renamed[f"model.{base}.{e}.w2.weight"] = down.contiguous()
        else:
            moe = re.sub(r"\.mlp\.(gate\.|shared_experts\.)", r".block_sparse_moe.\1", name)
            renamed[moe if moe.startswith("lm_head") else f"model.{moe}"] = tensor
    return renamed


def tensors_from_hf(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse."""
    import torch

    renamed: dict[str, Tensor] = {}
    experts: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        ours = name.removeprefix("model.").replace(".block_sparse_moe.", ".mlp.")
        match = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(w[123])\.weight", ours)
        if match:
            experts.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = tensor
        else:
            renamed[ours] = tensor
    for base, by_index in experts.items():
        try:
            stack = [by_index[e] for e in range(len(by_index))]
            renamed[f"{base}.gate_up_proj"] = torch.stack([torch.cat([w["w1"], w["w3"]]) for w in stack])
            renamed[f"{base}.down_proj"] = torch.stack([w["w2"] for w in stack])
        except KeyError as error:
            raise CheckpointError(
                f"{base}: expert {error} is missing", remedy="the file is incomplete"
            ) from error
    return renamed
