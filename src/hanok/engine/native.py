"""A decoder as the native kernels run it: packed weights, a paged cache, one call a step (`kernels/native_src/step.h`).

R rows of a step (tokens of one or several sequences), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hanok.engine.blocks import BLOCK, BlockPool
from hanok.kernels.native import address, native, native_available
from hanok.kernels.packed import Kind, PackedMatrix, lazy, pack
from hanok.models.config import ModelConfig
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.linear import Linear, RMSNorm
from hanok.models.mlp import GatedMLP
from hanok.models.rope import Rotary

_LANES = 16


def why_not_native(config: ModelConfig) -> str | None:
    """What keeps a model from running this way; None if nothing does."""
    plain = {
        "norm": "rms", "norm_placement": "pre", "qk_norm_whole": False, "o_bias": False, "mlp_bias": False, "moe": None,
        "activation": "silu", "gated_mlp": True, "attention_softcap": None, "logit_softcap": None,
        "attention_sinks": False, "attention_gate": False, "embedding_scale": 1.0, "learned_positions": False,
    }  # fmt: skip
    if not native_available():
        return "the native kernels are not built"
    for kind in sorted(set(config.layers)):
        if kind != "gqa":
            return f"it has layers of kind {kind}"
    for name, value in plain.items():
        if getattr(config, name) != value:
            return f"{name} = {getattr(config, name)}"
    if config.rope_theta is None or (
        config.rope_scaling is not None and config.rope_scaling.kind in ("dynamic", "longrope")
    ):
        return "its positions are not of the kind that the kernels turn"
    if config.dim_of_head % 16 or config.num_heads * config.dim_of_head % 32:
        return f"heads of {config.dim_of_head} do not fill vectors"
    return None


def block_bytes(config: ModelConfig) -> int:
    """Of a block of the cache in all layers: keys and values in bfloat16."""
    return config.num_layers * 2 * config.kv_heads * BLOCK * config.dim_of_head * 2


class NativeDecoder:
    """Args: kind: of the weights. blocks: of the cache. threads: of the kernels' own. path: an instruction set."""

    def __init__(self, decoder: Decoder, *, kind: Kind, blocks: int, threads: int, path: str = "") -> None:
        config = decoder.config
        assert why_not_native(config) is None
        self.config, self.pool = config, BlockPool(blocks)
        self._kept: list[Any] = []
        self._refills: list[Callable[[], object]] = []
        head = self._pack(lambda: decoder.head_weight, kind)
        embedding = head if config.tie_embeddings else self._pack(lambda: decoder.embed_tokens.weight, kind)
        rotary = Rotary(config.rope_theta or 1.0, config.rope_width, config.max_context, config.rope_scaling)
        frequencies = self._keep(rotary.frequencies(config.max_context).float().contiguous())
        shape = [
            config.hidden_size, config.num_heads, config.kv_heads, config.dim_of_head, config.mlp_width, config.rope_width,
            config.vocab_size, blocks,
        ]  # fmt: skip
        numbers = [
            config.norm_eps, config.attention_scale or config.dim_of_head**-0.5, rotary.attention_factor,
        ]  # fmt: skip
        self._runner = native().Runner(
            shape,
            numbers,
            address(frequencies),
            self._norm(decoder.norm),
            embedding.native,
            head.native,
            threads,
            path,
        )
        self.cache_bytes = 0
        for block in decoder.layers:
            assert isinstance(block, Block)
            self._add(block, kind)

    def step(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        tables: Sequence[Sequence[int]],
        wanted: Sequence[int],
    ) -> Tensor:
        """Feed R tokens and return float32 logits [len(wanted), V] behind the rows `wanted`.

        Args:
            positions: of each token in its sequence. sequences: which of `tables` each belongs to; the rows of one
                stand together, in order.
            tables: the blocks of each sequence, enough for its highest position.
        """
        width = max(map(len, tables))
        flat = [block for table in tables for block in (*table, *[0] * (width - len(table)))]
        logits = torch.empty(len(wanted), self.config.vocab_size)
        self._runner.step(
            list(ids),
            list(positions),
            list(sequences),
            flat,
            width,
            list(wanted),
            address(logits) if wanted else 0,
        )
        return logits

    def read(self, ids: Sequence[int], *, rows: int) -> Iterator[Tensor]:
        """Logits behind every token of a text, float32, at most `rows` of them at a time.

        Raises:
            CapacityError: no blocks are free for it.
        """
        table = self.pool.take(-(-len(ids) // BLOCK))
        try:
            for start in range(0, len(ids), rows):
                part = list(ids[start : start + rows])
                places = range(start, start + len(part))
                yield self.step(part, places, [0] * len(part), [table], range(len(part)))
        finally:
            self.pool.give_back(table)

    def refill(self) -> None:
        """Take the decoder's weights anew, in place."""
        for refill in self._refills:
            refill()

    @property
    def weight_bytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept if isinstance(kept, PackedMatrix))

    def _add(self, block: Block, kind: Kind) -> None:
        attention, mlp, config = block.self_attn, block.mlp, self.config
        assert isinstance(attention, GroupedQueryAttention)
        assert isinstance(mlp, GatedMLP)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        bias = None if attention.q_proj.bias is None else lambda: torch.cat([_bias(p) for p in projections])
        qkv = self._pack(lambda: torch.cat([p.weight for p in projections]), kind, bias=bias)
        gate_up = self._pack(lambda: _side_by_side(mlp.gate_proj, mlp.up_proj), kind)
        size = self.pool.size * config.kv_heads * BLOCK * config.dim_of_head
        keys, values = (self._keep(lazy(size, torch.bfloat16)) for _ in range(2))
        self.cache_bytes += keys.nbytes + values.nbytes
        norms = [
            self._norm(block.input_layernorm), self._norm(block.post_attention_layernorm), self._norm(attention.q_norm),
            self._norm(attention.k_norm),
        ]  # fmt: skip
        self._runner.add_layer(
            norms, qkv.native, self._pack(lambda: attention.o_proj.weight, kind).native, gate_up.native,
            self._pack(lambda: mlp.down_proj.weight, kind).native, address(keys), address(values),
        )  # fmt: skip

    def _pack(
        self, weight: Callable[[], Tensor], kind: Kind, *, bias: Callable[[], Tensor] | None = None
    ) -> PackedMatrix:
        def make() -> PackedMatrix:
            return pack(weight().detach(), kind, bias_N=None if bias is None else bias().detach())

        matrix = make()
        self._refills.append(lambda: matrix.take_over(make()))
        return self._keep(matrix)

    def _norm(self, norm: object) -> int:
        if norm is None:
            return 0
        assert isinstance(norm, RMSNorm)
        numbers = self._keep(norm.weight.detach().float().clone())
        self._refills.append(lambda: numbers.copy_(norm.weight.detach()))
        return address(numbers)

    def _keep(self, item: Any) -> Any:
        self._kept.append(item)
        return item


def _bias(linear: Linear) -> Tensor:
    assert linear.bias is not None
    return linear.bias


def _side_by_side(gate: Linear, up: Linear) -> Tensor:
    """16 rows of the gate, 16 rows up, and so on; both padded to whole blocks."""
    padding = (0, 0, 0, -gate.weight.shape[0] % (2 * _LANES))
    blocks = [
        torch.nn.functional.pad(w.weight.detach(), padding).unflatten(0, (-1, _LANES)) for w in (gate, up)
    ]
    return torch.stack(blocks, dim=1).flatten(0, 2)
