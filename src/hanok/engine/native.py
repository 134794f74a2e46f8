"""A decoder as the native kernels run it: packed weights, a paged cache, one call a step (`kernels/native_src/step.h`).

R rows of a step (tokens of one or several sequences), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hanok.engine.blocks import BLOCK, BlockPool
from hanok.engine.images import Images
from hanok.kernels.formats import Quantised
from hanok.kernels.native import address, native, native_available
from hanok.kernels.packed import Kind, PackedMatrix, lazy, pack, pack_quantised
from hanok.models.coded import as_quantised, stored_codes
from hanok.models.config import ModelConfig
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.kda import DeltaAttention
from hanok.models.linear import Linear, RMSNorm
from hanok.models.mla import LatentAttention
from hanok.models.mlp import GatedMLP
from hanok.models.rope import Rotary

_LANES = 16
_BITS = {"int8": 8, "int4": 4}


def why_not_native(config: ModelConfig) -> str | None:
    """What keeps a model from running this way; None if nothing does."""
    plain = {
        "norm": "rms", "norm_placement": "pre", "qk_norm_whole": False, "o_bias": False, "mlp_bias": False, "moe": None,
        "activation": "silu", "gated_mlp": True, "attention_softcap": None, "logit_softcap": None,
        "attention_sinks": False, "attention_gate": False, "embedding_scale": 1.0, "learned_positions": False,
    }  # fmt: skip
    if not native_available():
        return "the native kernels are not built"
    for name, value in plain.items():
        if getattr(config, name) != value:
            return f"{name} = {getattr(config, name)}"
    for kind in sorted(set(config.layers)):
        if kind not in _REFUSALS:
            return f"it has layers of kind {kind}"
        for what, refused in _REFUSALS[kind]:
            if refused(config):
                return what
    return None


_STRETCHED = ("dynamic", "longrope")
_REFUSALS: dict[str, list[tuple[str, Callable[[ModelConfig], bool]]]] = {
    "gqa": [
        ("it has no positions", lambda c: c.rope_theta is None),
        ("its positions stretch with the text", lambda c: c.rope_scaling is not None and c.rope_scaling.kind in _STRETCHED),
        ("its heads do not fill vectors", lambda c: c.dim_of_head % 16 > 0 or c.num_heads * c.dim_of_head % 32 > 0),
    ],
    "mla": [
        ("its latent queries are of low rank", lambda c: c.q_lora_rank is not None),
        ("its latent attention has positions", lambda c: c.mla_rope),
        ("its latents do not fill vectors", lambda c: c.kv_lora_rank % 16 + c.qk_rope_head_dim % 4 > 0),
        ("its values do not fill vectors", lambda c: c.num_heads * c.v_head_dim % 32 > 0),
    ],
    "kda": [
        ("its delta heads do not fill vectors", lambda c: c.dim_of_head % 16 > 0 or c.num_heads * c.dim_of_head % 32 > 0),
    ],
}  # fmt: skip


def block_bytes(config: ModelConfig) -> int:
    """Of a block of the cache in all layers: keys and values in bfloat16."""
    widths = {
        "gqa": 2 * config.kv_heads * config.dim_of_head,
        "mla": 2 * config.kv_lora_rank + config.qk_rope_head_dim,
        "kda": 0,
    }
    return sum(widths[kind] for kind in config.layers) * BLOCK * 2


class NativeDecoder:
    """Args:
    kind: of the weights. blocks: of the cache. slots: sequences at once that have states (delta attention).
    threads: of the kernels' own. path: an instruction set. images: packed weights of an earlier start.
    """

    def __init__(
        self, decoder: Decoder, *, kind: Kind, blocks: int, threads: int, slots: int = 16, path: str = "",
        images: Images | None = None,
    ) -> None:  # fmt: skip
        config = decoder.config
        assert why_not_native(config) is None
        self.config, self.slots = config, slots
        self.kind: Kind = kind
        recurrent = "kda" in config.layers  # states are not kept at borders of blocks
        self.pool = BlockPool(blocks, reuse=not recurrent)
        self.caches: list[Tensor] = []  # keys and values of each layer that has them
        self._images = images
        self._kept: list[Any] = []
        self._refills: list[Callable[[], object]] = []
        head = self._pack(lambda: decoder.head_weight)
        embedding = head if config.tie_embeddings else self._pack(lambda: decoder.embed_tokens.weight)
        turned = "gqa" in config.layers
        rotary = Rotary(config.rope_theta or 1.0, config.rope_width, config.max_context, config.rope_scaling)
        frequencies = self._keep(rotary.frequencies(config.max_context).float().contiguous())
        shape = [config.hidden_size, config.rope_width if turned else 0, config.vocab_size, blocks]
        self._runner = native().Runner(
            shape, [config.norm_eps, rotary.attention_factor], address(frequencies), self._table(lambda: _weight(decoder.norm)),
            embedding.native, head.native, threads, path,
        )  # fmt: skip
        for block in decoder.layers:
            assert isinstance(block, Block)
            self._add(block)
        if images is not None:
            images.finish()

    def step(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        tables: Sequence[Sequence[int]],
        wanted: Sequence[int],
        slots: Sequence[int] = (),
    ) -> Tensor:
        """Feed R tokens and return float32 logits [len(wanted), V] behind the rows `wanted`.

        Args:
            positions: of each token in its sequence. sequences: which of `tables` each belongs to; the rows of one
                stand together, in order.
            tables: the blocks of each sequence, enough for its highest position.
            slots: where the states of each sequence are; a token at position 0 begins anew. Default: 0, 1, ...
        """
        logits = torch.empty(len(wanted), self.config.vocab_size)
        self._run(ids, positions, sequences, tables, wanted, slots, logits=logits)
        return logits

    def step_with_hidden(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        tables: Sequence[Sequence[int]],
        wanted: Sequence[int],
        slots: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:
        """`step`, and the hidden vectors behind the final norm that the logits were made from: float32 [len(wanted), D]."""
        logits = torch.empty(len(wanted), self.config.vocab_size)
        hidden = torch.empty(len(wanted), self.config.hidden_size)
        self._run(ids, positions, sequences, tables, wanted, slots, logits=logits, hidden=hidden)
        return logits, hidden

    def _run(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int], *, logits: Tensor | None = None, hidden: Tensor | None = None,
    ) -> None:  # fmt: skip
        width = max(map(len, tables))
        flat = [block for table in tables for block in (*table, *[0] * (width - len(table)))]
        self._runner.step(
            list(ids), list(positions), list(sequences), flat, width, list(slots or range(len(tables))), list(wanted),
            address(logits) if wanted else 0, address(hidden) if wanted else 0,
        )  # fmt: skip

    def read(self, ids: Sequence[int], *, rows: int) -> Iterator[Tensor]:
        """Logits behind every token of a text, float32, at most `rows` of them at a time.

        Raises:
            CapacityError: no blocks are free for it.
        """
        for part, places, table in self._parts(ids, rows):
            yield self.step(part, places, [0] * len(part), [table], range(len(part)), [self.slots])

    def read_hidden(self, ids: Sequence[int], *, rows: int) -> Iterator[Tensor]:
        """Hidden vectors behind the final norm of every token of a text, float32, at most `rows` of them at a time; the
        head is not run.

        Raises:
            CapacityError: no blocks are free for it.
        """
        for part, places, table in self._parts(ids, rows):
            hidden = torch.empty(len(part), self.config.hidden_size)
            self._run(part, places, [0] * len(part), [table], range(len(part)), [self.slots], hidden=hidden)
            yield hidden

    def _parts(self, ids: Sequence[int], rows: int) -> Iterator[tuple[list[int], range, list[int]]]:
        """Pieces of a text with their places, in blocks that are held until all are read."""
        table = self.pool.take(-(-len(ids) // BLOCK))
        try:
            for start in range(0, len(ids), rows):
                part = list(ids[start : start + rows])
                yield part, range(start, start + len(part)), table
        finally:
            self.pool.give_back(table)

    def refill(self) -> None:
        """Take the decoder's weights anew, in place."""
        for refill in self._refills:
            refill()

    @property
    def weight_bytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept if isinstance(kept, PackedMatrix))

    def _add(self, block: Block) -> None:
        mixer, mlp = block.self_attn, block.mlp
        assert isinstance(mlp, GatedMLP)
        gate_up = self._pack(lambda: _side_by_side(mlp.gate_proj.weight, mlp.up_proj.weight, self.kind))
        down = self._pack(lambda: mlp.down_proj.weight)
        norms = [
            self._table(lambda: _weight(block.input_layernorm)),
            self._table(lambda: _weight(block.post_attention_layernorm)),
        ]
        if isinstance(mixer, GroupedQueryAttention):
            self._add_full(mixer, norms, gate_up, down)
        elif isinstance(mixer, LatentAttention):
            self._add_latent(mixer, norms, gate_up, down)
        else:
            assert isinstance(mixer, DeltaAttention)
            self._add_delta(mixer, norms, gate_up, down)

    def _add_full(
        self, mixer: GroupedQueryAttention, norms: list[int], gate_up: PackedMatrix, down: PackedMatrix
    ) -> None:
        maps = [
            self._joined(mixer.q_proj, mixer.k_proj, mixer.v_proj),
            self._pack(lambda: mixer.o_proj.weight),
            gate_up,
            down,
        ]
        for norm in (mixer.q_norm, mixer.k_norm):
            norms.append(0 if norm is None else self._table(lambda norm=norm: _weight(norm)))
        memory = [self._room(mixer.kv_heads * mixer.width) for _ in range(2)]
        scale = self.config.attention_scale or mixer.width**-0.5
        widths = [mixer.heads, mixer.kv_heads, mixer.width]
        self._runner.add_full(norms, [m.native for m in maps], widths, scale, memory)

    def _add_latent(
        self, mixer: LatentAttention, norms: list[int], gate_up: PackedMatrix, down: PackedMatrix
    ) -> None:
        def up(part: int) -> Tensor:
            weight = mixer.kv_b_proj.weight.view(mixer.heads, mixer.nope + mixer.value, mixer.latent)
            return weight.split([mixer.nope, mixer.value], dim=1)[part]

        maps = [
            self._joined(mixer.q_proj, mixer.kv_a_proj_with_mqa),
            self._pack(lambda: mixer.o_proj.weight),
            gate_up,
            down,
        ]
        norms = [*norms, self._table(lambda: _weight(mixer.kv_a_layernorm))]
        widths = [mixer.heads, mixer.nope, mixer.shared, mixer.value, mixer.latent]
        ups = [self._table(lambda: up(0)), self._table(lambda: up(1))]
        memory = [self._room(mixer.latent + mixer.shared), self._room(mixer.latent)]
        self._runner.add_latent(norms, [m.native for m in maps], widths, mixer.scoring.scale, ups, memory)

    def _add_delta(
        self, mixer: DeltaAttention, norms: list[int], gate_up: PackedMatrix, down: PackedMatrix
    ) -> None:
        convs = (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)
        inputs = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.f_a_proj, mixer.g_a_proj, mixer.b_proj)
        maps = [
            self._joined(*inputs), self._pack(lambda: mixer.o_proj.weight), gate_up, down,
            self._pack(lambda: mixer.f_b_proj.weight), self._pack(lambda: mixer.g_b_proj.weight),
        ]  # fmt: skip
        tables = [
            self._table(lambda: torch.cat([conv.weight for conv in convs]).squeeze(1)),
            self._table(lambda: mixer.A_log.float().exp().flatten()), self._table(lambda: mixer.dt_bias),
            self._table(lambda: _weight(mixer.o_norm)),
        ]  # fmt: skip
        inner, taps = mixer.heads * mixer.width, mixer.q_conv1d.weight.shape[2]
        sequences = self.slots + 1  # one for `read`
        memory = [
            address(self._keep(lazy(sequences * inner * mixer.width, torch.float32))),
            address(self._keep(lazy(max(1, sequences * 3 * inner * (taps - 1)), torch.float32))),
        ]
        widths = [mixer.heads, mixer.width, taps]
        self._runner.add_delta(
            norms, [m.native for m in maps], widths, mixer.lower_bound or 0.0, tables, memory
        )

    def _room(self, width: int) -> int:
        """Of the cache, for `width` numbers a token."""
        self.caches.append(lazy(self.pool.size * BLOCK * width, torch.bfloat16))
        return address(self.caches[-1])

    def _joined(self, *maps: Linear) -> PackedMatrix:
        bias = None
        if maps[0].bias is not None:
            bias = lambda: torch.cat([_bias(one) for one in maps])  # noqa: E731
        return self._pack(lambda: _stacked([one.weight for one in maps], self.kind), bias=bias)

    def _pack(
        self, weight: Callable[[], Tensor | Quantised], *, bias: Callable[[], Tensor] | None = None
    ) -> PackedMatrix:
        def make() -> PackedMatrix:
            return _image(weight(), self.kind, None if bias is None else bias().detach())

        matrix = None if self._images is None else self._images.take()
        if matrix is None:
            matrix = make()
            if self._images is not None:
                self._images.keep(matrix)
        self._refills.append(lambda: matrix.take_over(make()))
        return self._keep(matrix)

    def _table(self, numbers: Callable[[], Tensor]) -> int:
        """Numbers as they are, float32."""
        held = self._keep(numbers().detach().float().clone().contiguous())
        self._refills.append(lambda: held.copy_(numbers().detach()))
        return address(held)

    def _keep(self, item: Any) -> Any:
        self._kept.append(item)
        return item


def _weight(norm: object) -> Tensor:
    assert isinstance(norm, RMSNorm)
    return norm.weight


def _bias(linear: Linear) -> Tensor:
    assert linear.bias is not None
    return linear.bias


def _image(weight: Tensor | Quantised, kind: Kind, bias_N: Tensor | None) -> PackedMatrix:
    """Codes that a file has in this kind's width go in as they are."""
    if isinstance(weight, Tensor):
        if kind == "bf16" or stored_codes(weight) is None:
            return pack(weight.detach(), kind, bias_N=bias_N)
        weight = as_quantised(weight, _BITS[kind])
    return pack_quantised(_by_part(weight, lambda part: _filled_up(part, _LANES)), bias_N=bias_N)


def _stacked(weights: Sequence[Tensor], kind: Kind) -> Tensor | Quantised:
    """One below the other. Rows are quantised for themselves, so codes may stand beside what has none."""
    if kind == "bf16":
        return torch.cat(list(weights))
    parts = [as_quantised(weight, _BITS[kind]) for weight in weights]
    numbers, scales = torch.cat([p.q_NK for p in parts]), torch.cat([p.scales_NG for p in parts])
    return Quantised(numbers, scales, _BITS[kind])


def _side_by_side(gate: Tensor, up: Tensor, kind: Kind) -> Tensor | Quantised:
    """16 rows of the gate, 16 rows up, and so on; both padded to whole blocks."""
    both = _stacked([gate, up], kind)

    def braided(part: Tensor) -> Tensor:
        blocks = [_filled_up(half, 2 * _LANES).unflatten(0, (-1, _LANES)) for half in part.chunk(2)]
        return torch.stack(blocks, dim=1).flatten(0, 2)

    return _by_part(both, braided) if isinstance(both, Quantised) else braided(both.detach())


def _by_part(weight: Quantised, change: Callable[[Tensor], Tensor]) -> Quantised:
    """The same change of the rows of numbers and scales."""
    return Quantised(change(weight.q_NK), change(weight.scales_NG), weight.bits)


def _filled_up(part: Tensor, rows: int) -> Tensor:
    """Zero rows to a multiple of `rows`."""
    return torch.nn.functional.pad(part, (0, 0, 0, -part.shape[0] % rows))
