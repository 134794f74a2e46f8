"""Where a factor on the inputs of some maps can be put away: into the norm, or the map, that makes these inputs.

    norm -> queries, keys, values      norm -> gate, up      up -> down      values -> output (one key head a query head)

Only attention with grouped queries and gated feed-forwards are looked at; other parts of a block keep their inputs.

N outputs, K inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hanok.models.decoder import Block
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.linear import LayerNorm, Linear, RMSNorm
from hanok.models.mlp import GatedMLP


@dataclass(frozen=True, slots=True)
class Fold:
    """`readers`: names within the block of the maps that read what `source` (a norm, or a map) makes; nothing else does."""

    source: str
    readers: tuple[str, ...]


def folds_of(block: Block) -> list[Fold]:
    """Those of a block, the later ones first: a map is a source before it is a reader."""
    found: list[Fold] = []
    if isinstance(block.mlp, GatedMLP):
        found.append(Fold("mlp.up_proj", ("mlp.down_proj",)))
        norm = {"pre": "post_attention_layernorm", "both": "pre_feedforward_layernorm"}.get(block.placement)
        if norm is not None:
            found.append(Fold(norm, ("mlp.gate_proj", "mlp.up_proj")))
    attention = block.self_attn
    if isinstance(attention, GroupedQueryAttention):
        if attention.heads == attention.kv_heads:
            found.append(Fold("self_attn.v_proj", ("self_attn.o_proj",)))
        if block.placement != "post":
            maps = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
            found.append(Fold("input_layernorm", maps))
    return found


@torch.no_grad()
def apply_fold(block: Block, fold: Fold, scale_K: Tensor) -> Tensor:
    """Divide what the source makes by s and multiply the readers' weights, which become float32 parameters of their own.

    Returns:
        s_K as it came out: a norm's weight stays in its own type, so s is what its rounding made of it.
    """
    source = block.get_submodule(fold.source)
    if isinstance(source, RMSNorm):
        before_K = source.weight.float() + source.offset
        source.weight = _parameter((before_K / scale_K - source.offset).to(source.weight.dtype))
        after_K = source.weight.float() + source.offset
        scale_K = torch.where(after_K == 0, scale_K, before_K / torch.where(after_K == 0, 1.0, after_K))
    elif isinstance(source, LayerNorm):
        source.weight = _parameter(source.weight.float() / scale_K)
        source.bias = _parameter(source.bias.float() / scale_K)
    else:
        assert isinstance(source, Linear)
        source.weight = _parameter(source.weight.float() / scale_K[:, None])
        if source.bias is not None:
            source.bias = _parameter(source.bias.float() / scale_K)
    for name in fold.readers:
        reader = block.get_submodule(name)
        assert isinstance(reader, Linear)
        reader.weight = _parameter(reader.weight.float() * scale_K)
    return scale_K


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
