"""GPT-2: learnt positions, layer norms, matrices kept as [in, out]."""

from __future__ import annotations

from typing import Any

from hanok.errors import CheckpointError
from hanok.models.config import ModelConfig
from hanok.models.families.family import (
    Family,
    Fused,
    Ignored,
    Prefix,
    Rename,
    Transposed,
    Values,
    attention_rows,
)
from hanok.models.families.values import read_activation

_MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_NAMES = {
    "wte": "embed_tokens", "wpe": "embed_positions", "h": "layers", "ln_f": "norm", "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}  # fmt: skip


def read(values: Values) -> ModelConfig:
    for option in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        if values.get(option):
            raise CheckpointError(f"{option} is not supported", remedy="use a model without it")
    width = values["n_embd"]
    return ModelConfig(
        family="gpt2", vocab_size=values["vocab_size"], hidden_size=width, num_layers=values["n_layer"],
        num_heads=values["n_head"], pattern=("gqa",), intermediate_size=values.get("n_inner") or 4 * width,
        max_context=values.get("n_positions", 1024), norm="layer", norm_eps=values.get("layer_norm_epsilon", 1e-5),
        rope_theta=None, learned_positions=True, qkv_bias=True, o_bias=True, mlp_bias=True, gated_mlp=False,
        activation=read_activation(values.get("activation_function", "gelu_new")),
        attention_scale=None if values.get("scale_attn_weights", True) else 1.0,
        tie_embeddings=values.get("tie_word_embeddings", True),
        initializer_range=values.get("initializer_range", 0.02),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size, "n_embd": config.hidden_size, "n_layer": config.num_layers,
        "n_head": config.num_heads, "n_inner": config.mlp_width, "n_positions": config.max_context,
        "layer_norm_epsilon": config.norm_eps, "initializer_range": config.initializer_range,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else config.activation,
        "scale_attn_weights": config.attention_scale is None, "tie_word_embeddings": config.tie_embeddings,
    }  # fmt: skip


FAMILY = Family(
    model_type="gpt2", architecture="GPT2LMHeadModel", read=read, write=write,
    layouts=(
        Prefix("transformer."),
        Ignored(r"\.attn\.(masked_)?bias$"),
        Transposed(_MATRICES),
        Fused("attn.c_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), rows=attention_rows),
        *(Rename(theirs, ours) for theirs, ours in _NAMES.items()),
    ),
    examples="GPT-2, DistilGPT-2, KoGPT-2",
)  # fmt: skip
