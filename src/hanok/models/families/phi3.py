"""Phi-3 and Phi-4 (text): projections joined, part of each head rotating, LongRoPE."""

from __future__ import annotations

from typing import Any

from hanok.models.config import ModelConfig
from hanok.models.families.family import Family, Fused, Prefix, Values, attention_rows
from hanok.models.families.mistral import read_window, write_window
from hanok.models.families.values import read_common, write_common


def read(values: Values) -> ModelConfig:
    return ModelConfig(**read_common(values) | read_window(values))


def write(config: ModelConfig) -> dict[str, Any]:
    values = write_common(config) | write_window(config)
    scaling = config.rope_scaling
    context = config.max_context if scaling is None else scaling.original_context
    return values | {"original_max_position_embeddings": context}


FAMILY = Family(
    model_type="phi3", architecture="Phi3ForCausalLM", read=read, write=write,
    layouts=(
        Prefix(),
        Fused(
            "self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), rows=attention_rows
        ),
        Fused(
            "mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"), rows=lambda config: [config.mlp_width] * 2
        ),
    ),
    examples="Phi-3 mini, medium; Phi-3.5 mini; Phi-4, Phi-4-mini",
)  # fmt: skip
