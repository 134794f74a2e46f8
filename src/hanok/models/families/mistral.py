"""Mistral: Llama with a window on every layer, where one is set."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Values
from hanok.models.families.values import read_common, write_common


def read(values: Values) -> ModelConfig:
    return ModelConfig(**read_common(values) | read_window(values))


def write(config: ModelConfig) -> dict[str, Any]:
    return write_common(config) | write_window(config)


def read_window(values: Values) -> dict[str, Any]:
    """One window for all layers (Mistral, Mixtral, Phi-3)."""
    window = values.get("sliding_window")
    return {} if window is None else {"pattern": ("swa",), "sliding_window": window}


def write_window(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window if "swa" in config.layers else None}


FAMILY = Family(
    model_type="mistral", architecture="MistralForCausalLM", read=read, write=write,
    examples="Mistral 7B, Nemo; Zephyr",
)  # fmt: skip
