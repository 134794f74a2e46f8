"""The first process's model: to the scheduler a decoder like any other, while every pass is announced to the followers.

What the scheduler does to states (rows copied, joined, given to the next answer) is noted as it happens and goes out with
the next pass, so that there is one message a pass.

B sequences, N tokens, D model width.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from hanok.engine.parallel.orders import Kind, Order, pack
from hanok.engine.parallel.sharded import ShardedDecoder, load_sharded
from hanok.engine.parallel.team import Team
from hanok.models.config import ModelConfig
from hanok.models.state import DecoderState, LayerState


class Journal:
    """Orders that were not sent yet. Any thread may note one: states are forgotten wherever Python drops them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._orders: deque[Order] = deque()

    def new_number(self) -> int:
        return next(self._numbers)

    def note(self, kind: Kind, *arguments: int) -> None:
        self._orders.append((kind, arguments))

    def send(self, team: Team) -> None:
        team.tell(pack([self._orders.popleft() for _ in range(len(self._orders))]))


class LeadersState(DecoderState):
    """The leader's part of a state, and the number under which the others have theirs."""

    def __init__(self, lengths_B: Tensor, layers: list[LayerState], number: int, journal: Journal) -> None:
        super().__init__(lengths_B, layers)
        self.number, self._journal = number, journal

    def select(self, indices: Sequence[int] | Tensor) -> DecoderState:
        rows = [int(row) for row in indices]
        return self._noted(super().select(rows), Kind.PICK, self.number, *rows)

    def clone(self) -> DecoderState:
        return self.select(range(len(self.lengths_B)))

    def followed_by(self, others: Sequence[DecoderState]) -> DecoderState:
        return self._noted(super().followed_by(others), Kind.JOIN, self.number, *map(_number, others))

    def write(self, rows: Sequence[int], source: DecoderState) -> None:
        super().write(rows, source)
        self._journal.note(Kind.WRITE, self.number, _number(source), *rows)

    def rewind(self, rows: Sequence[int]) -> None:
        super().rewind(rows)
        self._journal.note(Kind.REWIND, self.number, *rows)

    def _noted(self, made: DecoderState, kind: Kind, *arguments: int) -> LeadersState:
        number = self._journal.new_number()
        self._journal.note(kind, number, *arguments)
        return LeadersState(made.lengths_B, made.layers, number, self._journal)

    def __del__(self) -> None:
        self._journal.note(Kind.FORGET, self.number)


def _number(state: DecoderState) -> int:
    assert isinstance(state, LeadersState)
    return state.number


class LeadingDecoder(ShardedDecoder):
    """Arguments as `ShardedDecoder`."""

    def __init__(self, config: ModelConfig, *, whole: ModelConfig, team: Team) -> None:
        super().__init__(config, whole=whole, team=team)
        self._journal = Journal()

    def forward(
        self, ids_N: Tensor, cu_seqlens: Tensor, states: DecoderState | None = None
    ) -> tuple[Tensor, DecoderState | None]:
        """As `Decoder.forward`. Raises TeamError if another process is gone."""
        lengths = [end - start for start, end in pairwise(cu_seqlens.tolist())]
        number = 0 if states is None else _number(states)
        with self._team.together():
            self._journal.note(Kind.RUN, number, len(lengths), *lengths, *ids_N.tolist())
            self._journal.send(self._team)
            return super().forward(ids_N, cu_seqlens, states)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32 logits_NV. Raises TeamError if another process is gone."""
        with self._team.together():
            self._journal.note(Kind.LOGITS, len(hidden_ND))
            self._journal.send(self._team)
            return super().logits(self._team.share_out(hidden_ND.contiguous()))

    def new_state(self, batch: int) -> DecoderState:
        made, number = super().new_state(batch), self._journal.new_number()
        self._journal.note(Kind.NEW, number, batch)
        return LeadersState(made.lengths_B, made.layers, number, self._journal)


def lead(directory: Path, team: Team) -> LeadingDecoder:
    """The model, once every process has its slices.

    Raises:
        CheckpointError, ConfigError: as `load_sharded`. TeamError: another process could not read its own.
    """
    with team.together():
        team.tell(pack([(Kind.LOAD, ())]))
        model = load_sharded(directory, team, LeadingDecoder)
        team.meet()
    assert isinstance(model, LeadingDecoder)
    return model


def dismiss(team: Team) -> None:
    """Let the followers end."""
    with team.together():
        team.tell(pack([(Kind.STOP, ())]))
