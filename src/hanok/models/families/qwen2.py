"""Qwen 2 and 2.5: biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Values
from hanok.models.families.values import read_common, read_layer_types, write_common, write_layer_types


def read(values: Values) -> ModelConfig:
    return ModelConfig(**read_common(values) | read_windows(values), qkv_bias=True)


def write(config: ModelConfig) -> dict[str, Any]:
    return write_common(config) | write_windows(config)


def read_windows(values: Values) -> dict[str, Any]:
    """Windows on the layers from `max_window_layers` on, if `use_sliding_window` (Qwen 2, 3)."""
    window = values.get("sliding_window") if values.get("use_sliding_window", False) else None
    if window is None:
        return {"pattern": ("gqa",)}
    first = values.get("max_window_layers", 28)
    default = tuple("swa" if i >= first else "gqa" for i in range(values["num_hidden_layers"]))
    return {"pattern": read_layer_types(values, default=default), "sliding_window": window}


def write_windows(config: ModelConfig) -> dict[str, Any]:
    if "swa" not in config.layers:
        return {"use_sliding_window": False, "sliding_window": None}
    return {
        "use_sliding_window": True, "sliding_window": config.sliding_window,
        "max_window_layers": config.layers.index("swa"), "layer_types": write_layer_types(config),
    }  # fmt: skip


FAMILY = Family(
    model_type="qwen2", architecture="Qwen2ForCausalLM", read=read, write=write,
    examples="Qwen 2, 2.5; DeepSeek-R1-Distill-Qwen",
)  # fmt: skip
