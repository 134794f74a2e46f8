"""The other processes: they do what the leader says (`orders.py`), each with its own share of the model.

B sequences, N tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import torch

from hanok.engine.parallel.orders import Kind, unpack
from hanok.engine.parallel.sharded import ShardedDecoder, load_sharded
from hanok.engine.parallel.team import Team
from hanok.models.state import DecoderState


def follow(directory: Path, team: Team, *, check: Callable[[Path], object] | None = None) -> None:
    """Until the leader says STOP.

    Args:
        check: called with the directory before it is read; what it raises ends the team.

    Raises:
        TeamError: another process is gone. CheckpointError, ConfigError: as `load_sharded`.
    """
    follower = _Follower(directory, team, check)
    with torch.inference_mode(), team.together():
        while True:
            for kind, arguments in unpack(team.hear()):
                if kind is Kind.STOP:
                    return
                follower.do(kind, arguments)


class _Follower:
    def __init__(self, directory: Path, team: Team, check: Callable[[Path], object] | None) -> None:
        self._directory, self._team, self._check = directory, team, check
        self._loaded: ShardedDecoder | None = None
        self._states: dict[int, DecoderState] = {}

    def do(self, kind: Kind, arguments: Sequence[int]) -> None:
        if kind is Kind.LOAD:
            self._states.clear()
            if self._check is not None:
                self._check(self._directory)
            with torch.inference_mode(False):
                self._loaded = load_sharded(self._directory, self._team)
            self._team.meet()
        elif kind is Kind.RUN:
            self._run(*arguments)
        elif kind is Kind.LOGITS:
            width = self._model.config.hidden_size
            self._model.logits(self._team.share_out(torch.empty(arguments[0], width)))
        else:
            self._move_rows(kind, *arguments)

    def _run(self, number: int, sequences: int, *numbers: int) -> None:
        lengths, ids = numbers[:sequences], numbers[sequences:]
        cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        self._model(torch.tensor(ids), cu_seqlens, self._states[number] if number else None)

    def _move_rows(self, kind: Kind, number: int, *arguments: int) -> None:
        states = self._states
        if kind is Kind.NEW:
            states[number] = self._model.new_state(arguments[0])
        elif kind is Kind.JOIN:
            first, *others = arguments
            states[number] = states[first].followed_by([states[other] for other in others])
        elif kind is Kind.PICK:
            source, *rows = arguments
            states[number] = states[source].select(rows)
        elif kind is Kind.WRITE:
            source, *rows = arguments
            states[number].write(rows, states[source])
        elif kind is Kind.REWIND:
            states[number].rewind(arguments)
        else:
            assert kind is Kind.FORGET
            del states[number]

    @property
    def _model(self) -> ShardedDecoder:
        assert self._loaded is not None, "the leader orders LOAD first"
        return self._loaded
