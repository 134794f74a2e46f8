"""Llama 2 and 3, SmolLM and the many that share their layout."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Ignored, Prefix, Values
from hanok.models.families.values import read_common, write_common


def read(values: Values) -> ModelConfig:
    bias = values.get("attention_bias", False)
    return ModelConfig(
        **read_common(values), qkv_bias=bias, o_bias=bias, mlp_bias=values.get("mlp_bias", False)
    )


def write(config: ModelConfig) -> dict[str, Any]:
    return write_common(config) | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


FAMILY = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    read=read,
    write=write,
    layouts=(Prefix(), Ignored(r"rotary_emb\.inv_freq$")),
    examples="Llama 2, 3, 3.1, 3.2; SmolLM 1, 2; TinyLlama; Yi; DeepSeek 7B",
)
