"""A decoder as the native kernels run it: packed weights, a paged cache, one call a step (`kernels/native_src/step.h`).

R rows of a step (tokens of one or several sequences), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hanok.engine.adapter_maps import native_adapter
from hanok.engine.arrange import (
    bias_of,
    gate_last,
    in_turns,
    kind_of,
    norm_weight,
    padded,
    present,
    side_by_side,
)  # fmt: skip
from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import CacheKind, why_not_native
from hanok.engine.held import Held
from hanok.engine.images import Images
from hanok.engine.paged_model import PagedModel, too_large_for_scales
from hanok.engine.sampler import Memory
from hanok.errors import CheckpointError
from hanok.kernels.laws import HeadWeights
from hanok.kernels.memory import ResultRoom
from hanok.kernels.native import address, native
from hanok.kernels.packed import Kind, PackedMatrix, lazy
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.kda import DeltaAttention
from hanok.models.linear import LayerNorm, LowRank, Norm
from hanok.models.mla import LatentAttention
from hanok.models.mlp import GatedMLP, MixtureOfExperts, PlainMLP
from hanok.models.rope import Rotary

# A token or an error of the sampler, its log-probability and alternatives, and (temperature, top_p) where heads said them.
Drawn = tuple[int, float | None, Mapping[int, float] | None, tuple[float, float] | None]
_ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
_ROUTINGS = ("softmax", "sigmoid", "top_softmax")


class NativeDraws(NamedTuple):
    """How `NativeDecoder.decode` draws, by sequence.

    Args:
        memories: of the sampler. points: `sampler.uniform` of each sequence at the first step, then at the next.
        scales: of the temperatures that the heads choose; 0 where they choose nothing. vocabulary: ids from here on are never
            drawn.
    """

    memories: Sequence[Memory]
    points: list[float]
    scales: list[float]
    heads: HeadWeights | None
    vocabulary: int


class NativeDecoder(PagedModel):
    """Args:
    kind: of the weights. blocks, slots, spares, snapshots: as of `PagedModel`.
    threads: of the kernels' own. path: an instruction set. images: packed weights of an earlier start.
    cache: of keys and values; int8 with a scale for each token and head. head: another's, of the same decoder's weights.
    ends: kind of embedding and head, if not that of the others. finer: of those maps where rounding costs most: embedding
    and head, what mixers take from a row, and the way down from dense feed-forwards. Maps whose file has codes of four or
    eight bits keep these where the kind is int4.
    """

    def __init__(
        self, decoder: Decoder, *, kind: Kind, blocks: int, threads: int, slots: int = 16, spares: int = 0,
        snapshots: int = 0, path: str = "", images: Images | None = None, cache: CacheKind = "bf16",
        head: PackedMatrix | None = None, ends: Kind | None = None, finer: Kind | None = None,
    ) -> None:  # fmt: skip
        config = decoder.config
        assert why_not_native(config) is None
        self._runner: Any = None  # the first that goes when this does: its threads read what follows
        super().__init__(config, blocks=blocks, slots=slots, spares=spares, snapshots=snapshots)
        self.kind: Kind = kind
        self._finer: Kind = finer or kind
        self.cache: CacheKind = cache
        self._held = Held(kind, images)
        self._logits = ResultRoom()
        ends = ends or self._finer
        if head is None:
            head = self._held.pack(
                lambda group: decoder.head_weight, kind=kind_of([decoder.head_weight], ends)
            )
        tied = config.tie_embeddings
        embedding = head if tied else self._held.pack(lambda group: decoder.embed_tokens.weight, kind=ends)
        self.head, self.embedding = head, embedding
        positions = (
            self._held.table(lambda: decoder.embed_positions.weight) if config.learned_positions else 0
        )
        scale = torch.tensor(config.embedding_scale, dtype=decoder.embed_tokens.weight.dtype).item()
        self._rotaries: dict[Rotary, int] = {}
        self._runner = native().Runner(
            [config.hidden_size, config.vocab_size, blocks], [config.norm_eps, scale, config.logit_softcap or 0.0],
            [*self._norm(decoder.norm), positions], embedding.native, head.native, threads, path,
        )  # fmt: skip
        for block in decoder.layers:
            assert isinstance(block, Block)
            self._add(block)
        self._check_scales(decoder)
        if images is not None:
            images.finish()

    @property
    def crew(self) -> Any:
        """The threads that a step runs on, for what is done with its logits. Not to be kept: it holds the model."""
        return self._runner.crew

    def step(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int] = (), saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (),
    ) -> Tensor:  # fmt: skip
        """See `PagedModel.step`."""
        logits = self._logits.floats(len(wanted), self.config.vocab_size)
        self._run(ids, positions, sequences, tables, wanted, slots, saves, adapters, logits=logits)
        return logits

    def step_with_hidden(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        tables: Sequence[Sequence[int]],
        wanted: Sequence[int],
        slots: Sequence[int] = (),
        saves: Mapping[int, int] = {},
        adapters: Sequence[Any] = (),
        *,
        also: Sequence[int] = (),
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `PagedModel.step_with_hidden`. `inputs`: float32 [R, D], which layers read in place of the tokens' embeddings."""
        logits = self._logits.floats(len(wanted), self.config.vocab_size)
        hidden = torch.empty(len(wanted) + len(also), self.config.hidden_size)
        rows = [*wanted, *also]
        self._run(
            ids, positions, sequences, tables, rows, slots, saves, adapters, logits=logits, hidden=hidden, inputs=inputs
        )  # fmt: skip
        return logits, hidden

    def _run(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int], saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (), *,
        logits: Tensor | None = None, hidden: Tensor | None = None, inputs: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._runner.step(
            list(ids), list(positions), list(sequences), *_side_by_side(tables), list(slots or range(len(tables))),
            [saves.get(row, -1) for row in range(len(ids))] if saves else [], list(wanted),
            0 if logits is None else logits.shape[0], address(logits), address(hidden), address(inputs), *_numbered(adapters),
        )  # fmt: skip

    def decode(
        self, ids: Sequence[int], positions: Sequence[int], tables: Sequence[Sequence[int]], slots: Sequence[int],
        adapters: Sequence[Any], draws: NativeDraws,
    ) -> list[list[Drawn]]:  # fmt: skip
        """Several steps, each of one row of each sequence, and behind each the next token of every sequence, which the next step
        takes: what so many calls of `step` and of the sampler would draw. It ends behind a step in which an answer ended or no
        token could be drawn.

        Args:
            ids, positions: the last token of each sequence. tables, slots, adapters: as of `step`.

        Returns the tokens of each sequence, equally many.
        """
        return self._runner.decode(
            list(ids), list(positions), *_side_by_side(tables), list(slots), *_numbered(adapters),
            [memory.native for memory in draws.memories], draws.points, draws.scales,
            None if draws.heads is None else draws.heads.native, draws.vocabulary, len(draws.points) // len(ids),
        )  # fmt: skip

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

    def adapter(self, decoder: Decoder, lows: Mapping[str, LowRank]) -> Any:
        return native_adapter(decoder, lows)

    def refill(self) -> None:
        self._held.refill()

    def why_not_held(self, tensor: Tensor) -> str | None:
        bits = {"int8": 8, "int5": 5, "int4": 4}.get(self.kind)
        return f"a float16 scale of {self.kind} weights" if too_large_for_scales(tensor, bits) else None

    @property
    def weight_bytes(self) -> int:
        return sum(matrix.nbytes for matrix in self._held.matrices)

    def _check_scales(self, decoder: Decoder) -> None:
        packed = [
            part
            for matrix in self._held.matrices
            for part in (matrix.scales, matrix.zeros)
            if part is not None
        ]
        if all(bool(torch.stack(part.aminmax()).isfinite().all()) for part in packed):
            return
        most = {name: float(p.detach().abs().max()) for name, p in decoder.named_parameters()}
        name = max(most, key=most.__getitem__)
        raise CheckpointError(
            f"{name} holds {most[name]:.3g}, too large for a float16 scale of {self.kind} weights",
            remedy="take bf16, or an earlier checkpoint",
        )

    def _add(self, block: Block) -> None:
        mixer, placement = block.self_attn, block.placement
        before, behind = block.post_attention_layernorm, None
        if placement == "post":
            before, behind = None, block.post_attention_layernorm
        elif placement == "both":
            before, behind = block.pre_feedforward_layernorm, block.post_attention_layernorm
        norms = [
            *self._norm(block.input_layernorm if placement != "post" else None), *self._norm(behind), *self._norm(before),
            *self._norm(block.post_feedforward_layernorm if placement != "pre" else None),
        ]  # fmt: skip
        if isinstance(block.mlp, MixtureOfExperts):
            shared = block.mlp.shared_experts
            dense = native().Dense() if shared is None else self._dense(shared)
            parts = (dense, self._experts(block.mlp))
        else:
            assert isinstance(block.mlp, (GatedMLP, PlainMLP))
            parts = (self._dense(block.mlp), native().Experts())
        if isinstance(mixer, GroupedQueryAttention):
            self._add_full(mixer, norms, parts)
        elif isinstance(mixer, LatentAttention):
            self._add_latent(mixer, norms, parts)
        else:
            assert isinstance(mixer, DeltaAttention)
            self._add_delta(mixer, norms, parts)

    def _add_full(self, mixer: GroupedQueryAttention, norms: list[int], mlp: tuple[Any, Any]) -> None:
        gated = self.config.attention_gate
        projections = (mixer.q_proj, mixer.k_proj, mixer.v_proj)
        if gated:
            bias = (
                None
                if mixer.q_proj.bias is None
                else lambda: gate_last(mixer, [bias_of(p) for p in projections])
            )
            inputs = self._held.pack(
                lambda group: gate_last(mixer, [p.weight for p in projections]), bias=bias, kind=self._finer
            )
        else:
            inputs = self._held.joined(*projections, kind=self._finer)
        maps = [inputs.native, self._held.joined(mixer.o_proj).native]
        norms = [*norms, *self._norm(mixer.q_norm), *self._norm(mixer.k_norm)]
        widths = [
            mixer.heads, mixer.kv_heads, mixer.width, mixer.window or 0, self._rotary(mixer.rotary),
            int(mixer.q_norm is not None and self.config.qk_norm_whole), int(gated),
        ]  # fmt: skip
        numbers = [self.config.attention_scale or mixer.width**-0.5, self.config.attention_softcap or 0.0]
        sinks = 0 if mixer.sinks is None else self._held.table(lambda: present(mixer.sinks))
        memory = self._memory(mixer.kv_heads, mixer.width, mixer.width)
        self._runner.add_full(norms, maps, *mlp, widths, numbers, sinks, memory)

    def _add_latent(self, mixer: LatentAttention, norms: list[int], mlp: tuple[Any, Any]) -> None:
        def up(part: int) -> Tensor:
            weight = mixer.kv_b_proj.weight.view(mixer.heads, mixer.nope + mixer.value, mixer.latent)
            return weight.split([mixer.nope, mixer.value], dim=1)[part]

        rank = self.config.q_lora_rank or 0
        queries = mixer.q_a_proj if rank else mixer.q_proj
        maps = [
            self._held.joined(queries, mixer.kv_a_proj_with_mqa, kind=self._finer).native, self._held.joined(mixer.o_proj).native,
            self._held.joined(mixer.q_b_proj).native if rank else native().Matrix(),
        ]  # fmt: skip
        tables = [
            self._held.table(lambda: up(0)),
            self._held.table(lambda: up(1)),
            self._norm(mixer.kv_a_layernorm)[0],
        ]
        tables.append(self._norm(mixer.q_a_layernorm)[0] if rank else 0)
        widths = [
            mixer.heads, mixer.nope, mixer.shared, mixer.value, mixer.latent, rank, self._rotary(mixer.rotary),
        ]  # fmt: skip
        memory = self._memory(1, mixer.latent + mixer.shared, 0)
        self._runner.add_latent(norms, maps, *mlp, widths, mixer.scoring.scale, tables, memory)

    def _add_delta(self, mixer: DeltaAttention, norms: list[int], mlp: tuple[Any, Any]) -> None:
        convs = (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)
        inputs = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.f_a_proj, mixer.g_a_proj, mixer.b_proj)
        maps = [
            self._held.joined(*inputs, kind=self._finer),
            *(self._held.joined(one) for one in (mixer.o_proj, mixer.f_b_proj, mixer.g_b_proj)),
        ]  # fmt: skip
        tables = [
            self._held.table(lambda: torch.cat([conv.weight for conv in convs]).squeeze(1).T),
            self._held.table(lambda: mixer.A_log.float().exp().flatten()), self._held.table(lambda: mixer.dt_bias),
            self._held.table(lambda: norm_weight(mixer.o_norm)),
        ]  # fmt: skip
        inner, taps = mixer.heads * mixer.width, mixer.q_conv1d.weight.shape[2]
        memory = [self._state_room(inner * mixer.width), self._state_room(3 * inner * (taps - 1))]
        widths = [mixer.heads, mixer.width, taps]
        self._runner.add_delta(
            norms, [m.native for m in maps], *mlp, widths, mixer.lower_bound or 0.0, tables, memory
        )

    def _dense(self, mlp: GatedMLP | PlainMLP) -> Any:
        down, up = self._held.joined(mlp.down_proj, kind=self._finer), mlp.up_proj
        activation = _ACTIVATIONS.index(mlp.activation)
        if isinstance(mlp, PlainMLP):
            bias = None if up.bias is None else lambda: padded(bias_of(up))
            inner = self._held.pack(lambda group: padded(up.weight), bias=bias)
            return native().dense(inner.native, down.native, False, activation)
        gate = mlp.gate_proj
        bias = None if up.bias is None else lambda: in_turns(bias_of(gate), bias_of(up))
        kind = kind_of([gate.weight, up.weight], self.kind)
        inner = self._held.pack(
            lambda group: side_by_side(gate.weight, up.weight, kind, group), bias=bias, kind=kind
        )
        return native().dense(inner.native, down.native, True, activation)

    def _experts(self, mlp: MixtureOfExperts) -> Any:
        config, router, experts = mlp.gate.config, mlp.gate, mlp.experts
        biases = config.biases
        gate_up = self._held.expert_maps(
            lambda: experts.gate_up_proj, lambda rows: in_turns(*rows.chunk(2)),
            bias=(lambda e: in_turns(*experts.gate_up_proj_bias[e].chunk(2))) if biases else None,
        )  # fmt: skip
        down = self._held.expert_maps(
            lambda: experts.down_proj, lambda rows: rows,
            bias=(lambda e: experts.down_proj_bias[e]) if biases else None,
        )  # fmt: skip
        corrected, shared = config.router == "sigmoid", mlp.shared_gate
        tables = [
            self._held.table(lambda: router.weight),
            self._held.table(lambda: present(router.bias)) if router.bias is not None else 0,
            self._held.table(lambda: present(router.e_score_correction_bias)) if corrected else 0,
            self._held.table(lambda: shared.weight) if shared is not None else 0,
        ]
        widths = [
            config.experts, config.per_token, config.groups, config.top_groups, _ROUTINGS.index(config.router),
            int(config.renormalise),
        ]  # fmt: skip
        numbers = [config.scaling, config.swiglu_limit or 0.0, config.swiglu_alpha]
        return native().experts(widths, numbers, tables, gate_up.native, down.native)

    def _rotary(self, rotary: Rotary | None) -> int:
        """Its number, one for all layers that turn alike; -1 for none."""
        if rotary is None:
            return -1
        if rotary not in self._rotaries:
            frequencies = self._held.keep(rotary.frequencies(rotary.context).float().contiguous())
            self._runner.add_rotary(rotary.width, rotary.attention_factor, address(frequencies))
            self._rotaries[rotary] = len(self._rotaries)
        return self._rotaries[rotary]

    def _norm(self, norm: Norm | None) -> list[int]:
        """Weight and bias."""
        if norm is None:
            return [0, 0]
        bias = self._held.table(lambda: norm.bias) if isinstance(norm, LayerNorm) else 0
        return [self._held.table(lambda: norm_weight(norm)), bias]

    def _memory(self, heads: int, key: int, value: int) -> list[int]:
        """Of the cache: keys, values, and of int8 their scales. Without a `value` a key begins with it."""
        tokens, dtype = self.pool.size * BLOCK * heads, torch.int8 if self.cache == "int8" else torch.bfloat16
        parts = [lazy(tokens * width, dtype) if width else None for width in (key, value)]
        if self.cache == "int8":
            parts += [lazy(tokens, torch.float32) if width else None for width in (key, value)]
        self.caches += [part for part in parts if part is not None]
        return [address(part) for part in parts]

    def _state_room(self, width: int) -> int:
        """`width` numbers for each place of states."""
        numbers = self._held.keep(lazy(max(1, self._places * width), torch.float32))
        if width:
            self._states.append(numbers.view(self._places, width))
        return address(numbers)


def _side_by_side(tables: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """All in one list, as wide as the widest; and that width."""
    width = max(map(len, tables))
    flat: list[int] = []
    for table in tables:
        flat += table
        flat += [0] * (width - len(table))
    return flat, width


def _numbered(adapters: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """Those there are, and which of them each sequence has, or -1; nothing where there are none."""
    if not any(adapters):
        return [], []
    places = {a: place for place, a in enumerate(dict.fromkeys(a for a in adapters if a is not None))}
    return list(places), [places.get(adapter, -1) for adapter in adapters]
