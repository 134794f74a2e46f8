"""Gemma 3 (text): as Gemma 2 with norms on queries and keys instead of soft caps, and another rotary base within windows."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Values
from hanok.models.families.gemma2 import read_gemma, write_gemma
from hanok.models.families.values import (
    read_common,
    read_layer_types,
    read_scaling,
    write_common,
    write_scaling,
)


def read(values: Values) -> ModelConfig:
    every = values.get("sliding_window_pattern", 6)
    default = tuple("gqa" if (i + 1) % every == 0 else "swa" for i in range(values["num_hidden_layers"]))
    both = values.get("rope_parameters") or {}
    everywhere = both.get("full_attention") or values.get("rope_scaling") or {}
    within = both.get("sliding_attention") or {}
    fields = read_common({**values, "rope_parameters": None, "rope_scaling": None}) | read_gemma(values)
    fields |= {
        "pattern": read_layer_types(values, default=default),
        "qk_norm": True,
        "rope_theta": float(everywhere.get("rope_theta", values.get("rope_theta", 1_000_000.0))),
        "rope_local_theta": float(within.get("rope_theta", values.get("rope_local_base_freq", 10_000.0))),
        "rope_scaling": read_scaling(everywhere, values),
    }
    return ModelConfig(**fields)


def write(config: ModelConfig) -> dict[str, Any]:
    values = write_common(config) | write_gemma(config)
    everywhere: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        everywhere |= write_scaling(config.rope_scaling)
    within = {"rope_type": "default", "rope_theta": config.rope_local_theta}
    return values | {
        "rope_parameters": {"full_attention": everywhere, "sliding_attention": within},
        "rope_local_base_freq": config.rope_local_theta,
    }


FAMILY = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    read=read,
    write=write,
    examples="Gemma 3 1B, 270M",
)
