"""Qwen 3: norms on queries and keys."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Values
from hanok.models.families.qwen2 import read_windows, write_windows
from hanok.models.families.values import read_common, write_common


def read(values: Values) -> ModelConfig:
    bias = values.get("attention_bias", False)
    return ModelConfig(**read_common(values) | read_windows(values), qk_norm=True, qkv_bias=bias, o_bias=bias)


def write(config: ModelConfig) -> dict[str, Any]:
    return write_common(config) | write_windows(config) | {"attention_bias": config.qkv_bias}


FAMILY = Family(
    model_type="qwen3", architecture="Qwen3ForCausalLM", read=read, write=write, examples="Qwen 3 dense"
)
