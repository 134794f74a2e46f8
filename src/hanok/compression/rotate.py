"""A whole decoder in turned coordinates (QuaRot, arXiv 2404.00456): the same function, with outliers spread over all channels.

R1 turns the residual stream: norms are folded into their readers, readers become W R1, writers R1^T W, the embedding E R1. R2
turns the values of each head: v_proj's rows by R2^T, o_proj's columns by R2. Embedding and head part where they were one, since
the head takes the last norm in.

Only decoders of the Llama kind: RMSNorm before each part, grouped-query attention, gated feed-forwards. N outputs, K inputs, D
width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hanok.compression.rotation import random_rotation
from hanok.errors import ConfigError
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.linear import Linear, RMSNorm
from hanok.models.mlp import GatedMLP


@dataclass(frozen=True, slots=True)
class Rotation:
    """stream_DD, heads_VV: orthogonal, float64 (the head's width V)."""

    stream_DD: Tensor
    heads_VV: Tensor

    @staticmethod
    def of(decoder: Decoder, seed: int) -> Rotation:
        """Raises ConfigError: a decoder of another kind, or a width without a Hadamard matrix here."""
        config = decoder.config
        blocks = [block for block in decoder.layers if isinstance(block, Block)]
        if (
            config.norm_placement != "pre"
            or not isinstance(decoder.norm, RMSNorm)
            or config.learned_positions
            or config.attention_gate
            or any(not isinstance(b.self_attn, GroupedQueryAttention) for b in blocks)
            or any(not isinstance(b.mlp, GatedMLP) for b in blocks)
        ):
            raise ConfigError(
                "only decoders of the Llama kind are rotated", remedy="leave out --rotate for this model"
            )
        generator = torch.Generator().manual_seed(seed)
        return Rotation(
            random_rotation(config.hidden_size, generator), random_rotation(config.dim_of_head, generator)
        )

    def turn(self, x_ND: Tensor) -> Tensor:
        """Rows of the residual stream, or of the embedding, in their own type."""
        return (x_ND.double() @ self.stream_DD).to(x_ND.dtype)

    @torch.no_grad()
    def turn_block(self, block: Block) -> dict[str, Tensor]:
        """Turn its maps, which become float32 parameters of their own. Returns what else changed, by name."""
        attention, mlp = block.self_attn, block.mlp
        assert isinstance(attention, GroupedQueryAttention)
        assert isinstance(mlp, GatedMLP)
        changed: dict[str, Tensor] = {}
        readers = (
            ("input_layernorm", (attention.q_proj, attention.k_proj, attention.v_proj)),
            ("post_attention_layernorm", (mlp.gate_proj, mlp.up_proj)),
        )
        for name, maps in readers:
            norm = block.get_submodule(name)
            assert isinstance(norm, RMSNorm)
            for one in maps:
                _put(one, one.weight.double() * _weight(norm) @ self.stream_DD)
            _flatten(norm)
            changed[f"{name}.weight"] = norm.weight.detach()
        self._turn_values(attention, changed)
        for name, one in (("self_attn.o_proj", attention.o_proj), ("mlp.down_proj", mlp.down_proj)):
            _put(one, self.stream_DD.T @ one.weight.double())
            if one.bias is not None:
                one.bias = _parameter(self.stream_DD.T @ one.bias.double())
                changed[f"{name}.bias"] = one.bias.detach()
        return changed

    def _turn_values(self, attention: GroupedQueryAttention, changed: dict[str, Tensor]) -> None:
        values, outputs = attention.v_proj, attention.o_proj
        by_head = values.weight.double().unflatten(0, (attention.kv_heads, -1))
        _put(values, (self.heads_VV.T @ by_head).flatten(0, 1))
        if values.bias is not None:
            bias = values.bias.double().view(attention.kv_heads, -1) @ self.heads_VV
            values.bias = _parameter(bias.flatten())
            changed["self_attn.v_proj.bias"] = values.bias.detach()
        columns = outputs.weight.double().unflatten(1, (attention.heads, -1))
        _put(outputs, (columns @ self.heads_VV).flatten(1))

    @torch.no_grad()
    def turn_ends(self, decoder: Decoder) -> None:
        """Embedding, last norm and head; the head becomes a map of its own. Their types stay."""
        norm, table = decoder.norm, decoder.embed_tokens.weight
        assert isinstance(norm, RMSNorm)
        head = Linear(*reversed(table.shape))
        head.weight = nn.Parameter(
            (decoder.head_weight.double() * _weight(norm) @ self.stream_DD).to(table.dtype),
            requires_grad=False,
        )
        decoder.embed_tokens.weight = nn.Parameter(self.turn(table), requires_grad=False)
        _flatten(norm)
        decoder.lm_head = head
        decoder.config = replace(decoder.config, tie_embeddings=False)


def _weight(norm: RMSNorm) -> Tensor:
    return norm.weight.double() + norm.offset


def _flatten(norm: RMSNorm) -> None:
    """To the norm that only divides."""
    ones = torch.full_like(norm.weight, 1.0 - norm.offset)
    norm.weight = nn.Parameter(ones, requires_grad=False)


def _put(linear: Linear, weight_NK: Tensor) -> None:
    linear.weight = _parameter(weight_NK)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.float(), requires_grad=False)
