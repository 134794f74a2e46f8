"""Which models the native kernels run, and what their cache takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hanok.engine.blocks import BLOCK
from hanok.kernels.native import native_available
from hanok.kernels.packed import Kind
from hanok.models.config import ModelConfig

CacheKind = Literal["bf16", "int8"]
LANES = 16  # outputs of a packed matrix side by side; widths that fill vectors are multiples of it

# By what the engine calls them: kind of the weights, and of those maps where rounding costs most, if that is another.
WIDTHS: dict[str, tuple[Kind, Kind | None]] = {
    "bf16": ("bf16", None), "int8": ("int8", None), "int4+": ("int4", "int5"), "int4": ("int4", None),
}  # fmt: skip
MOST_LAYERS = 256  # that the kernels have loops for, adapters in all of them (native_src/engine.cpp)


def why_not_native(config: ModelConfig) -> str | None:
    """What keeps a model from running this way; None if nothing does."""
    if not native_available():
        return "the native kernels are not built"
    if config.num_layers > MOST_LAYERS:
        return f"it has {config.num_layers} layers, more than {MOST_LAYERS}"
    for kind in sorted(set(config.layers)):
        if kind not in _REFUSALS:
            return f"it has layers of kind {kind}"
        for what, refused in _REFUSALS[kind]:
            if refused(config):
                return what
    return None


def _stretched(config: ModelConfig) -> bool:
    """Positions that depend on the text's length. ("dynamic" does only beyond the model's context, which nobody may pass.)"""
    turned = config.rope_theta is not None and config.rope_scaling is not None
    return turned and config.rope_scaling.kind == "longrope"  # type: ignore[union-attr]


_FULL: list[tuple[str, Callable[[ModelConfig], bool]]] = [
    ("its positions stretch with the text", _stretched),
    ("its heads do not fill vectors", lambda c: c.dim_of_head % LANES > 0),
]
_REFUSALS: dict[str, list[tuple[str, Callable[[ModelConfig], bool]]]] = {
    "gqa": _FULL,
    "swa": _FULL,
    "mla": [
        ("its latent positions stretch with the text", lambda c: c.mla_rope and _stretched(c)),
        ("its latents do not fill vectors", lambda c: c.kv_lora_rank % LANES + c.qk_rope_head_dim % 4 > 0),
    ],
    "kda": [("its delta heads do not fill vectors", lambda c: c.dim_of_head % LANES > 0)],
}


def block_bytes(config: ModelConfig, cache: CacheKind | Literal["float32"] = "bf16") -> int:
    """Of a block of the cache in all layers. "float32": on a device alone."""
    number, scale = {"bf16": (2, 0), "int8": (1, 4), "float32": (4, 0)}[cache]
    full = 2 * config.kv_heads * (config.dim_of_head * number + scale)
    latent = (config.kv_lora_rank + config.qk_rope_head_dim) * number + scale
    widths = {"gqa": full, "swa": full, "mla": latent, "kda": 0, "gdn": 0}
    return sum(widths[kind] for kind in config.layers) * BLOCK


def state_bytes(config: ModelConfig) -> int:
    """Of one sequence's states in all layers of delta attention: a matrix a head and the convolutions' inputs, float32."""
    inner, before = config.num_heads * config.dim_of_head, config.conv_size - 1
    keys, values = (
        config.linear_key_heads * config.linear_key_dim,
        config.linear_value_heads * config.linear_value_dim,
    )
    delta = inner * (config.dim_of_head + 3 * before)
    gated = values * config.linear_key_dim + (2 * keys + values) * before
    return (config.layers.count("kda") * delta + config.layers.count("gdn") * gated) * 4
