"""Sequences that decode together: one row of the decoder's state each.

The rows come in multiples of four, free ones among them: with fewer, or an odd number of, rows, matrix libraries pick
kernels that sum in another order, and a sequence's numbers would depend on how many others there are.

R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.engine.generation import Generation
from hanok.models.decoder import Decoder
from hanok.models.lora_rows import ROW_MULTIPLE, acting_on
from hanok.models.state import DecoderState


class DecodeBatch:
    """`admit`, `step`, `release`, again and again."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rows: list[Generation | None] = []
        self._state: DecoderState | None = None

    @property
    def active(self) -> list[Generation]:
        return [row for row in self._rows if row is not None]

    def admit(self, arrivals: Sequence[Generation], state: DecoderState) -> None:
        """Take over sequences whose prompts `state` has seen, one row each."""
        free = [r for r, row in enumerate(self._rows) if row is None]
        missing = len(arrivals) - len(free)
        if missing > 0:
            new = -(-missing // ROW_MULTIPLE) * ROW_MULTIPLE
            fresh = self._decoder.new_state(new)
            self._state = fresh if self._state is None else DecoderState.concatenate([self._state, fresh])
            free += range(len(self._rows), len(self._rows) + new)
            self._rows += [None] * new
        assert self._state is not None
        places = free[: len(arrivals)]
        self._state.write(places, state)
        for place, arrival in zip(places, arrivals, strict=True):
            self._rows[place] = arrival

    def step(self) -> tuple[list[Generation], Tensor, Tensor]:
        """Feed each sequence its last token. Returns the sequences, their next logits [len, V], and what these were made
        from [len, D]."""
        assert self._state is not None
        places = [r for r, row in enumerate(self._rows) if row is not None]
        free = [r for r, row in enumerate(self._rows) if row is None]
        self._state.rewind(free)  # what runs idle in them must not grow the caches
        ids_R = torch.tensor([0 if row is None else row.ids[-1] for row in self._rows])
        cu_seqlens = torch.arange(len(self._rows) + 1, dtype=torch.int32)
        with acting_on(self._decoder, [None if row is None else row.lows for row in self._rows]):
            hidden_RD, _ = self._decoder(ids_R, cu_seqlens, self._state)
            logits_RV = self._decoder.logits(hidden_RD)
        return self.active, logits_RV[places], hidden_RD[places]

    def release(self) -> None:
        """Free the rows of finished sequences; close the gaps once a third of the rows is free."""
        self._rows = [None if row is None or row.finish_reason else row for row in self._rows]
        used = len(self.active)
        if not used:
            self._rows, self._state = [], None
            return
        needed = -(-used // ROW_MULTIPLE) * ROW_MULTIPLE
        if self._state is not None and needed * 3 <= len(self._rows) * 2:
            order = sorted(range(len(self._rows)), key=lambda r: self._rows[r] is None)[:needed]
            self._state = self._state.select(order)
            self._rows = [self._rows[r] for r in order]
