"""Gemma 2: norms around each part, weights as offsets from one, soft caps, every other layer within a window."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Values
from hanok.models.families.values import (
    read_activation,
    read_common,
    read_layer_types,
    write_activation,
    write_common,
    write_layer_types,
)


def read(values: Values) -> ModelConfig:
    fields = read_common(values) | read_gemma(values)
    fields["pattern"] = read_layer_types(values, default=("swa", "gqa"))
    return ModelConfig(**fields)


def read_gemma(values: Values) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    bias = values.get("attention_bias", False)
    return {
        "norm": "rms_plus_one", "norm_placement": "both", "qkv_bias": bias, "o_bias": bias,
        "activation": read_activation(values.get("hidden_activation") or "gelu_pytorch_tanh"),
        "attention_scale": values.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": values.get("attn_logit_softcapping"),
        "logit_softcap": values.get("final_logit_softcapping"),
        "embedding_scale": values["hidden_size"] ** 0.5,
        "sliding_window": values.get("sliding_window") or 4096,
        "tie_embeddings": values.get("tie_word_embeddings", True),
    }  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    return write_common(config) | write_gemma(config)


def write_gemma(config: ModelConfig) -> dict[str, Any]:
    assert config.attention_scale is not None
    return {
        "hidden_activation": write_activation(config.activation),
        "query_pre_attn_scalar": round(config.attention_scale**-2),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.sliding_window,
        "layer_types": write_layer_types(config),
        "attention_bias": config.qkv_bias,
    }


FAMILY = Family(
    model_type="gemma2", architecture="Gemma2ForCausalLM", read=read, write=write, examples="Gemma 2"
)
