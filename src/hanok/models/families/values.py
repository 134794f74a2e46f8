"""What the families' `config.json` have in common: sizes, rotary parameters in both spellings, layer types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanok.errors import CheckpointError
from hanok.models.config import Activation, ModelConfig, RopeScaling

Values = Mapping[str, Any]
LAYER_TYPES = {"full_attention": "gqa", "sliding_attention": "swa", "linear_attention": "gdn"}
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
_ROPE_KEYS = {
    "factor": "factor", "original_max_position_embeddings": "original_context", "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow", "truncate": "truncate",
    "mscale": "mscale", "mscale_all_dim": "mscale_all_dim", "attention_factor": "attention_factor",
    "short_factor": "short_factor", "long_factor": "long_factor",
}  # fmt: skip


def read_common(values: Values, *, norm_eps: float = 1e-6, theta: float = 10_000.0) -> dict[str, Any]:
    """Fields of ModelConfig that most families spell alike. `norm_eps`, `theta`: the family's defaults."""
    return {
        "family": values["model_type"],
        "vocab_size": values["vocab_size"],
        "hidden_size": values["hidden_size"],
        "num_layers": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "num_kv_heads": values.get("num_key_value_heads"),
        "head_dim": values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"],
        "intermediate_size": values["intermediate_size"],
        "activation": read_activation(values.get("hidden_act", "silu")),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "norm_eps": values.get("rms_norm_eps", norm_eps),
        "max_context": values.get("max_position_embeddings", 2048),
        "initializer_range": values.get("initializer_range", 0.02),
        "pattern": ("gqa",),
        **read_rope(values, theta=theta),
    }


def write_common(config: ModelConfig) -> dict[str, Any]:
    """The same, outwards."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.dim_of_head,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": write_activation(config.activation),
        "initializer_range": config.initializer_range,
        "max_position_embeddings": config.max_context,
        "tie_word_embeddings": config.tie_embeddings,
        **write_rope(config),
    }


def read_experts(values: Values) -> int:
    """The number of routed experts, which families and versions spell in three ways; 0 where there are none."""
    return values.get("num_experts") or values.get("n_routed_experts") or values.get("num_local_experts") or 0


def read_activation(name: str) -> Activation:
    """Raises CheckpointError where the activation is not among ours."""
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            f'activation "{name}" is not supported', remedy=f"known: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def write_activation(name: str) -> str:
    return "gelu_pytorch_tanh" if name == "gelu_tanh" else name


def read_rope(values: Values, *, theta: float) -> dict[str, Any]:
    """rope_theta, rope_fraction and rope_scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`."""
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    fraction = rope.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    return {
        "rope_theta": float(rope.get("rope_theta", values.get("rope_theta", theta))),
        "rope_fraction": 1.0 if fraction is None else float(fraction),
        "rope_scaling": read_scaling(rope, values),
    }


def read_scaling(rope: Values, values: Values) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "su":
        kind = "longrope"
    if kind not in ("linear", "dynamic", "llama3", "yarn", "longrope"):
        raise CheckpointError(
            f'rope_type "{kind}" is not supported',
            remedy="known: default, linear, dynamic, llama3, yarn, longrope",
        )
    known = {ours: rope[theirs] for theirs, ours in _ROPE_KEYS.items() if rope.get(theirs) is not None}
    context = values.get("max_position_embeddings", 0)
    known.setdefault("original_context", values.get("original_max_position_embeddings", context))
    if "factor" not in known:
        known["factor"] = context / known["original_context"]
    for name in ("short_factor", "long_factor"):
        known[name] = tuple(float(x) for x in known.get(name, ()))
    return RopeScaling(kind=kind, **known)


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """Both spellings: older readers know `rope_theta` and `rope_scaling`, newer ones `rope_parameters`."""
    if config.rope_theta is None:
        return {}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    written: dict[str, Any] = {"rope_theta": config.rope_theta}
    if config.rope_fraction != 1.0:
        rope["partial_rotary_factor"] = written["partial_rotary_factor"] = config.rope_fraction
    if config.rope_scaling is not None:
        rope |= write_scaling(config.rope_scaling)
        written["rope_scaling"] = rope
    return written | {"rope_parameters": rope}


def write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    wanted = {
        "linear": ("factor",), "dynamic": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        "yarn": ("factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor",
                 "original_max_position_embeddings"),
        "longrope": ("factor", "short_factor", "long_factor", "attention_factor", "original_max_position_embeddings"),
    }[scaling.kind]  # fmt: skip
    values = {theirs: getattr(scaling, _ROPE_KEYS[theirs]) for theirs in wanted}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {"rope_type": scaling.kind} | {key: value for key, value in lists.items() if value is not None}


def read_layer_types(values: Values, *, default: tuple[str, ...] = ("gqa",)) -> tuple[str, ...]:
    """The mixers of `layer_types`, else `default`."""
    types = values.get("layer_types")
    if types is None:
        return default
    unknown = sorted(set(types) - set(LAYER_TYPES))
    if unknown:
        raise CheckpointError(
            f'layer type "{unknown[0]}" is not supported', remedy=f"known: {', '.join(LAYER_TYPES)}"
        )
    return tuple(LAYER_TYPES[kind] for kind in types)


def write_layer_types(config: ModelConfig) -> list[str]:
    names = {ours: theirs for theirs, ours in LAYER_TYPES.items()}
    return [names[kind] for kind in config.layers]
