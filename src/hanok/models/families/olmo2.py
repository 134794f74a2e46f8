"""OLMo 2: norms behind each part, and on all heads of queries and of keys together."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Values
from hanok.models.families.values import read_common, write_common


def read(values: Values) -> ModelConfig:
    bias = values.get("attention_bias", False)
    return ModelConfig(
        **read_common(values, norm_eps=1e-5), norm_placement="post", qk_norm=True, qk_norm_whole=True,
        qkv_bias=bias, o_bias=bias,
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    return write_common(config) | {"attention_bias": config.qkv_bias}


FAMILY = Family(
    model_type="olmo2", architecture="Olmo2ForCausalLM", read=read, write=write, examples="OLMo 2 1B to 32B"
)
