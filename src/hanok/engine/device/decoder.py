"""A decoder on a device: PyTorch's layers over blocks of keys and values and slots of states there.

A step that must keep copies of recurrent states within a text runs in passes, each up to the next copy. Steps in which every
text brings one token run in fixed shapes (`graphs.py`).

R rows of a step, N of a pass, B sequences, W blocks of a table, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from hanok.engine.blocks import BLOCK
from hanok.engine.device.graphs import DecodeSteps
from hanok.engine.device.weights import DeviceKind, Placed
from hanok.engine.paged_model import PagedModel, too_large_for_scales
from hanok.engine.plain import hidden_after
from hanok.kernels.flex import compiled_flex, flex_agrees, flex_single
from hanok.models.decoder import Block, Decoder
from hanok.models.linear import LowRank
from hanok.models.lora_rows import acting_on
from hanok.models.paged import BlockPages, Flex
from hanok.models.ragged import Ragged
from hanok.models.state import LayerState


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbouring rows of one sequence."""

    sequence: int
    first: int
    count: int

    @property
    def rows(self) -> range:
        return range(self.first, self.first + self.count)


class DeviceDecoder(PagedModel):
    """Args:
    decoder: whose weights are copied to the device; kept for `refill`.
    kind: of the weights. dtype: of products, cache and residual stream; default: float32 for "float32", else bfloat16.
    ends: bits of the head's codes, if not those of the others. blocks, slots, spares, snapshots: as of `PagedModel`.
    flex: let single tokens attend by FlexAttention, compiled where that agrees; else keys and values are gathered first.
    graphs: run steps of single tokens in fixed shapes, on a GPU as CUDA graphs; default: on a GPU.
    """

    def __init__(
        self, decoder: Decoder, *, device: torch.device, kind: DeviceKind, blocks: int, slots: int = 16, spares: int = 0,
        snapshots: int = 0, dtype: torch.dtype | None = None, ends: int | None = None, graphs: bool | None = None,
        placed: Placed | None = None, flex: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(decoder.config, blocks=blocks, slots=slots, spares=spares, snapshots=snapshots)
        self.device, self.kind = device, kind
        self._dtype = dtype or computing_type(kind)
        self._placed = placed or Placed(decoder, device, kind, self._dtype, ends=ends)
        self.decoder = self._placed.model
        self._layers = [self._layer_state(block) for block in self.decoder.layers]  # type: ignore[arg-type]
        self._flex = self._chosen_flex() if flex else None
        stretched = self.config.rope_scaling is not None and self.config.rope_scaling.kind in (
            "dynamic",
            "longrope",
        )
        self._steps: DecodeSteps | None = None
        if not stretched and (device.type == "cuda" if graphs is None else graphs):
            self._steps = DecodeSteps(device, spare_block=blocks, spare_slot=self._places)

    def step(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int] = (), saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (),
    ) -> Tensor:  # fmt: skip
        return self.step_with_hidden(ids, positions, sequences, tables, wanted, slots, saves, adapters)[0]

    def step_with_hidden(
        self, ids: Sequence[int], positions: Sequence[int], sequences: Sequence[int], tables: Sequence[Sequence[int]],
        wanted: Sequence[int], slots: Sequence[int] = (), saves: Mapping[int, int] = {}, adapters: Sequence[Any] = (),
        *, also: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        slots = list(slots or range(len(tables)))
        rows = [*wanted, *also]
        of_row = [adapters[n] for n in sequences] if any(a is not None for a in adapters) else []
        simple = not (of_row or saves or also) and len(wanted) == len(ids) == len(tables)
        with torch.inference_mode():
            if simple and self._steps is not None and list(wanted) == list(range(len(ids))):
                logits_BV, hidden_BD = self._steps(self._one_each, ids, positions, tables, slots)
                return logits_BV, hidden_BD.float()
            hidden_RD = torch.empty(len(rows), self.config.hidden_size, device=self.device, dtype=self._dtype)
            for pieces in _passes(sequences, saves):
                hidden_ND = self._pass(pieces, ids, positions, tables, slots, of_row)
                local = {row: n for n, row in enumerate(row for piece in pieces for row in piece.rows)}
                places = [(n, local[row]) for n, row in enumerate(rows) if row in local]
                if places:
                    mine, theirs = torch.tensor(places, device=self.device).T
                    hidden_RD[mine] = hidden_ND[theirs]
                for piece in pieces:
                    place = saves.get(piece.rows[-1])
                    if place is not None:
                        self.copy_states(slots[piece.sequence], place)
            with self._acting([of_row[row] for row in wanted] if of_row else []):
                logits_WV = self.decoder.logits(hidden_RD[: len(wanted)])
        return logits_WV, hidden_RD.float()

    def adapter(self, decoder: Decoder, lows: Mapping[str, LowRank]) -> dict[str, LowRank]:
        kept = {where: low for where, low in lows.items() if not where.startswith("mtp.")}
        return {
            where: copy.deepcopy(low).to(self.device, self._dtype).requires_grad_(False).eval()
            for where, low in kept.items()
        }

    def embed(
        self, texts: Sequence[Sequence[int]], adapter: Mapping[str, LowRank] | None, *, layers: Sequence[int]
    ) -> list[list[Tensor]]:
        """`hidden_after`, on the CPU."""
        found = hidden_after(self.decoder, texts, adapter, layers=layers)
        return [[hidden_ND.cpu() for hidden_ND in of_text] for of_text in found]

    def refill(self) -> None:
        self._placed.refill()

    def why_not_held(self, tensor: Tensor) -> str | None:
        bits = {"int8": 8, "int4": 4}.get(self.kind)
        return f"a float16 scale of {self.kind} weights" if too_large_for_scales(tensor, bits) else None

    @property
    def weight_bytes(self) -> int:
        return self._placed.nbytes

    def _chosen_flex(self) -> Flex | None:
        if self.device.type != "cuda":
            return flex_single
        config, heads = self.config, set()
        if {"gqa", "swa"} & set(config.layers):
            width = config.dim_of_head
            heads.add((config.kv_heads, config.num_heads // config.kv_heads, width, width))
        if "mla" in config.layers:
            width = config.kv_lora_rank + config.qk_rope_head_dim
            heads.add((1, config.num_heads, width, config.kv_lora_rank))
        agrees = all(flex_agrees(*shape, self._dtype, self.device) for shape in sorted(heads))
        return compiled_flex if agrees else None

    def _layer_state(self, block: Block) -> LayerState:
        """Room of a layer: rows for every token of all blocks, or states by place; and one more of either that nobody reads."""
        room: LayerState = {}
        for name, one in block.self_attn.new_state(1).items():
            if one.shape[1]:
                room[name] = torch.zeros(self._places + 1, *one.shape[1:], device=self.device)
                self._states.append(room[name])
            else:
                tokens = (self.pool.size + 1) * BLOCK
                room[name] = torch.zeros(tokens, *one.shape[2:], device=self.device, dtype=self._dtype)
                self.caches.append(room[name])
        return room

    def _pass(
        self, pieces: Sequence[_Piece], ids: Sequence[int], positions: Sequence[int], tables: Sequence[Sequence[int]],
        slots: Sequence[int], of_row: Sequence[Any],
    ) -> Tensor:  # fmt: skip
        """The hidden vectors of these rows."""
        rows = [row for piece in pieces for row in piece.rows]
        lengths, seen = [piece.count for piece in pieces], [positions[piece.first] for piece in pieces]
        bounds = [0, *accumulate(lengths)]
        width = max(len(tables[piece.sequence]) for piece in pieces)
        flat = [
            block for p in pieces for block in [*tables[p.sequence], *[0] * (width - len(tables[p.sequence]))]
        ]
        sequence = [b for b, length in enumerate(lengths) for _ in range(length)]
        parts = [
            [ids[row] for row in rows], [positions[row] for row in rows], sequence, seen,
            [slots[piece.sequence] for piece in pieces], bounds, flat,
        ]  # fmt: skip
        moved = torch.tensor([number for part in parts for number in part], device="cpu").to(self.device)
        ids_N, positions_N, sequence_N, seen_B, slots_B, bounds_B, flat_BW = moved.split(
            [len(p) for p in parts]
        )
        tables_BW = flat_BW.view(len(pieces), width)
        pages = BlockPages(tables_BW, positions_N, sequence_N, lengths, seen, flex=self._flex)
        ragged = Ragged(bounds_B.to(torch.int32), seen_B, bounds=bounds, pages=pages)
        ragged.positions_N, ragged.sequence_N = positions_N, sequence_N
        layers = [_SlotRows(room, slots_B, seen_B == 0) for room in self._layers]
        with self._acting([of_row[row] for row in rows] if of_row else []):
            return self.decoder.through(ids_N, ragged, layers)

    def _one_each(
        self, ids_B: Tensor, positions_B: Tensor, slots_B: Tensor, tables_BW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and hidden vectors of one token of each sequence; nothing in it asks the host."""
        batch = len(ids_B)
        number_B = torch.arange(batch, device=self.device)
        pages = BlockPages(tables_BW, positions_B, number_B, [1] * batch, flex=self._flex)
        bounds_B = torch.arange(batch + 1, device=self.device, dtype=torch.int32)
        ragged = Ragged(bounds_B, positions_B, bounds=list(range(batch + 1)), pages=pages)
        ragged.positions_N, ragged.sequence_N = positions_B, number_B
        layers = [_SlotRows(room, slots_B, positions_B == 0) for room in self._layers]
        hidden_BD = self.decoder.through(ids_B, ragged, layers)
        return self.decoder.logits(hidden_BD), hidden_BD

    def _acting(self, of_row: Sequence[Any]) -> Any:
        return acting_on(self.decoder, of_row) if of_row else nullcontext()


class _SlotRows(LayerState):
    """A layer's room as its mixer sees it: of states the rows of the batch's places, zeros where a text begins; what is put
    there is written to the places. Keys and values are there as they are.

    Args: slots_B: places. begins_B: whether the sequence has seen nothing yet.
    """

    def __init__(self, room: LayerState, slots_B: Tensor, begins_B: Tensor) -> None:
        super().__init__(room)
        self._slots_B, self._begins_B = slots_B, begins_B

    def __getitem__(self, name: str) -> Tensor:
        held = super().__getitem__(name)
        if name not in STATES:
            return held
        rows = held.index_select(0, self._slots_B)
        return rows.masked_fill(self._begins_B.view(-1, *[1] * (rows.dim() - 1)), 0.0)

    def __setitem__(self, name: str, value: Tensor) -> None:
        if name in STATES:
            super().__getitem__(name).index_copy_(0, self._slots_B, value)


STATES = (
    "recurrent",
    "conv",
)  # entries of a layer that are one for a sequence; the others are rows for tokens


def computing_type(kind: DeviceKind) -> torch.dtype:
    return torch.float32 if kind == "float32" else torch.bfloat16


def _passes(sequences: Sequence[int], saves: Mapping[int, int]) -> Iterator[list[_Piece]]:
    """Of every sequence its rows up to the first save, then those up to the next, and so on."""
    cut: list[list[_Piece]] = []
    for sequence, group in groupby(range(len(sequences)), key=lambda row: sequences[row]):
        rows, pieces = list(group), []
        first = rows[0]
        for row in rows:
            if row in saves or row == rows[-1]:
                pieces.append(_Piece(sequence, first, row + 1 - first))
                first = row + 1
        cut.append(pieces)
    for number in range(max(map(len, cut), default=0)):
        yield [pieces[number] for pieces in cut if number < len(pieces)]
