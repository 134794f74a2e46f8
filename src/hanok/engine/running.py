"""One request that holds a place in the model: what of its text is read, and where that lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from hanok.engine.adapters import held_of
from hanok.engine.blocks import BLOCK, BlockPool, block_names
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
        if start >= len(prompt):
            return self.generation.ids[start - len(prompt) : end - len(prompt)]
        if end <= len(prompt):
            return list(prompt[start:end])
        return [*prompt[start:], *self.generation.ids[: end - len(prompt)]]


@dataclass(slots=True, eq=False)
class Part:
    """What one running request does in a step. Not to be changed: frozen, it would cost a small model's step a percent.

    Args:
        start, count: the tokens of its text that are read. draft: guesses at what follows them.
        saves: token count to the place of the snapshot behind it.
        fork: the place that keeps the states from before the draft.
        end: tokens of the text that are read after the step, whatever becomes of the draft.
        answers: whether the next token can be chosen behind the last row.
    """

    running: Running
    start: int
    count: int
    draft: Sequence[int] = ()
    saves: dict[int, int] = field(default_factory=dict)
    fork: int | None = None
    end: int = field(init=False)
    answers: bool = field(init=False)

    def __post_init__(self) -> None:
        self.end = self.start + self.count
        self.answers = self.end == self.running.length

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
        ids = self.running.tokens(self.start, self.end)
        return [*ids, *self.draft] if self.draft else ids

    @property
    def wanted(self) -> range:
        """Rows of this part whose logits count."""
        return range(self.count - 1, self.count + len(self.draft)) if self.answers else range(0)


class StepRows(NamedTuple):
    """The parts of a step, one behind the other, as `PagedModel.step` takes them.

    Args:
        wanted: rows for answers, then so many for echoes (`echoed`). firsts: the first row of each part.
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
    echoed: int


def rows_of(parts: Sequence[Part]) -> StepRows:
    ids, positions, sequences, tables = list[int](), list[int](), list[int](), list[list[int]]()
    wanted, echoed, slots, firsts = list[int](), list[int](), list[int](), list[int]()
    saves: dict[int, int] = {}
    adapters: list[Any] = []
    for number, part in enumerate(parts):
        running, first = part.running, len(ids)
        ids += part.ids
        count = len(ids) - first
        firsts.append(first)
        positions += range(part.start, part.start + count)
        sequences += [number] * count
        tables.append(running.blocks)
        slots.append(running.slot)
        adapters.append(running.adapter)
        if part.answers:
            wanted += range(first + part.count - 1, first + count)
        if running.generation.echo is not None:
            echoed += [first + row for row in range(len(part.echoed))]
        if part.saves:
            saves.update({first + tokens - part.start - 1: place for tokens, place in part.saves.items()})
        if part.fork is not None:
            saves[first + part.count - 1] = part.fork
    return StepRows(
        ids, positions, sequences, tables, wanted + echoed, slots, saves, firsts, adapters, len(echoed)
    )


def reserve(pool: BlockPool, running: Running, end: int, more: int) -> int:
    """Of `more` tokens behind `end`, how many there are blocks for: free ones are taken, nobody is pushed out."""
    missing = -(-(end + more) // BLOCK) - len(running.blocks)
    if missing > 0 and pool.free >= missing:
        running.blocks += pool.take(missing)
    return min(more, len(running.blocks) * BLOCK - end)


def last_border(tokens: int) -> int:
    """The last border of a block that leaves a token to be read: its logits are needed."""
    return (tokens - 1) // BLOCK * BLOCK
