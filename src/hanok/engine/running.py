"""One request that holds a place in the model: what of its text is read, and where that lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hanok.engine.adapters import held_of
from hanok.engine.blocks import BLOCK, block_names
from hanok.engine.generation import Generation


@dataclass(slots=True, eq=False)
class Running:
    """Args:
    slot: of its states. blocks: that hold its keys and values. done: tokens read. names: of its full blocks so far.
    borders: tokens after which the states are worth a snapshot, besides regular ones. entered: its length when it came in.
    trail: the name of the one snapshot that follows a growing answer.
    stale: what it holds was partly computed with other weights, so nobody may use it later.
    """

    generation: Generation
    slot: int
    entered: int
    blocks: list[int] = field(default_factory=list)
    done: int = 0
    names: list[bytes] = field(default_factory=list)
    borders: frozenset[int] = frozenset()
    trail: bytes | None = None
    stale: bool = False

    @property
    def adapter(self) -> Any:
        """As the model takes it, or None."""
        return held_of(self.generation.adapter)

    def block_names(self, start: int, end: int, *, after: bytes = b"") -> Iterator[bytes]:
        """The names of its full blocks between two tokens; `after`: of the block before them."""
        held = self.generation.adapter
        salt = b"" if held is None else held.key
        return block_names(self.tokens(start, end), self.generation.request.tenant, adapter=salt, after=after)

    @property
    def length(self) -> int:
        return len(self.generation.request.prompt_ids) + len(self.generation.ids)

    def tokens(self, start: int, end: int) -> list[int]:
        prompt = self.generation.request.prompt_ids
        if end <= len(prompt):
            return list(prompt[start:end])
        return [*prompt[start:], *self.generation.ids[max(0, start - len(prompt)) : end - len(prompt)]]


@dataclass(frozen=True, slots=True)
class Part:
    """What one running request does in a step.

    Args:
        start, count: the tokens of its text that are read. draft: guesses at what follows them.
        saves: token count to the place of the snapshot behind it.
        fork: the place that keeps the states from before the draft.
        answers: whether the next token can be chosen behind the last row.
    """

    running: Running
    start: int
    count: int
    draft: Sequence[int] = ()
    saves: dict[int, int] = field(default_factory=dict)
    fork: int | None = None
    answers: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", self.end == self.running.length)

    @property
    def end(self) -> int:
        """Tokens of the text that are read after the step, whatever becomes of the draft."""
        return self.start + self.count

    @property
    def echoed(self) -> range:
        """Positions whose logits say how probable the prompt's own next token was, where that is asked for."""
        echo = self.running.generation.echo
        return range(0) if echo is None else echo.rows(self.start, self.end)

    def take_echo(self, logits_nV: Tensor) -> None:
        echo = self.running.generation.echo
        if echo is not None:
            echo.take(self.start, logits_nV)

    @property
    def ids(self) -> list[int]:
        return [*self.running.tokens(self.start, self.end), *self.draft]

    @property
    def wanted(self) -> range:
        """Rows of this part whose logits count."""
        return range(self.count - 1, self.count + len(self.draft)) if self.answers else range(0)


@dataclass(frozen=True, slots=True)
class StepRows:
    """The parts of a step, one behind the other, as `PagedModel.step` takes them.

    Args:
        wanted: rows for answers, then for echoes. firsts: the first row of each part.
    """

    ids: list[int]
    positions: list[int]
    sequences: list[int]
    tables: list[list[int]]
    wanted: list[int]
    slots: list[int]
    saves: dict[int, int]
    firsts: list[int]
    adapters: list[Any]


def rows_of(parts: Sequence[Part]) -> StepRows:
    rows = StepRows([], [], [], [], [], [], {}, [], [])
    echoed: list[int] = []
    for number, part in enumerate(parts):
        first, ids = len(rows.ids), part.ids
        rows.firsts.append(first)
        rows.ids.extend(ids)
        rows.positions.extend(range(part.start, part.start + len(ids)))
        rows.sequences.extend([number] * len(ids))
        rows.tables.append(part.running.blocks)
        rows.wanted.extend(first + row for row in part.wanted)
        echoed.extend(first + row for row in range(len(part.echoed)))
        rows.slots.append(part.running.slot)
        rows.adapters.append(part.running.adapter)
        rows.saves.update({first + tokens - part.start - 1: place for tokens, place in part.saves.items()})
        if part.fork is not None:
            rows.saves[first + part.count - 1] = part.fork
    rows.wanted.extend(echoed)
    return rows


def last_border(tokens: int) -> int:
    """The last border of a block that leaves a token to be read: its logits are needed."""
    return (tokens - 1) // BLOCK * BLOCK
