"""Which sequences come next: a pure function of (seed, cursor), so that a resumed run reads on exactly where it was.

The state is two integers a split: sequences drawn, and tokens drawn. Epoch and place in it follow by division; the
order within an epoch is a `Permutation`. Splits are mixed by always drawing from the one that is furthest behind its
share of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hanok.artefacts.shards import TokenSplit
from hanok.errors import InputError
from hanok.training.config import TrainConfig
from hanok.training.packing import PackedSequence, SequenceTable, read_sequence
from hanok.training.permutation import Permutation

_BLOCK = 1024  # draws at most whose order is worked out at once


@dataclass(slots=True)
class _Source:
    name: str
    split: TokenSplit
    table: SequenceTable
    share: float
    limit: int | None  # sequences in all; None: endless
    seed: int
    drawn: int = 0
    tokens: int = 0
    _block: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = field(default=None)

    @property
    def exhausted(self) -> bool:
        return self.limit is not None and self.drawn >= self.limit

    def peek(self) -> tuple[int, int, int]:
        """Document, start and length of the next sequence."""
        size = min(_BLOCK, self.table.num_sequences)
        block, offset = divmod(self.drawn, size)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self.table.locate(self._order(block * size, size)))
        _, documents, starts, lengths = self._block
        return int(documents[offset]), int(starts[offset]), int(lengths[offset])

    def _order(self, first: int, count: int) -> np.ndarray:
        """The sequence numbers of draws [first, first + count), across epochs."""
        epochs, places = np.divmod(np.arange(first, first + count), self.table.num_sequences)
        order = np.empty(count, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            permutation = Permutation(self.table.num_sequences, f"{self.seed}/{self.name}/{epoch}")
            order[here] = permutation(places[here])
        return order


class Sampler:
    """Draws the sequences of one step after another.

    Args:
        splits: the splits named in `config.mixture` (others are ignored).

    Raises:
        InputError: a split of the mixture is absent or empty.
    """

    def __init__(self, config: TrainConfig, splits: Mapping[str, TokenSplit]) -> None:
        self._all_tokens = config.chat_loss == "all"
        self._sources = [
            _make_source(name, weight, config, splits) for name, weight in config.mixture.items()
        ]
        total = sum(source.share for source in self._sources)
        for source in self._sources:
            source.share /= total
        self._tokens_per_step = config.tokens_per_step

    @property
    def documents_left_out(self) -> dict[str, int]:
        """Conversations longer than `max_seq_len`, by split."""
        return {s.name: s.table.documents_left_out for s in self._sources if s.table.documents_left_out}

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int] | None:
        """Steps and tokens from the start until a limit is reached or the epochs are through; None if nothing ends it."""
        if max_steps is None and max_tokens is None and any(source.limit is None for source in self._sources):
            return None
        kept = self.state()
        self.restore({name: {"drawn": 0, "tokens": 0} for name in kept})
        steps = tokens = 0
        while (max_tokens is None or tokens < max_tokens) and (max_steps is None or steps < max_steps):
            lengths = [length for _, _, _, length in self._draws()]
            if not lengths:
                break
            steps, tokens = steps + 1, tokens + sum(lengths)
        self.restore(kept)
        return steps, tokens

    def draw_step(self) -> list[PackedSequence]:
        """The next sequences, as many as fit into `tokens_per_step`; empty when the epochs are through."""
        return [
            read_sequence(source.split, source.name, document, start, length, all_tokens=self._all_tokens)
            for source, document, start, length in self._draws()
        ]

    def _draws(self) -> Iterator[tuple[_Source, int, int, int]]:
        """Source, document, start and length of each sequence of one step; moves the cursors."""
        room = self._tokens_per_step
        while (source := self._furthest_behind()) is not None:
            document, start, length = source.peek()
            if length > room:
                return
            source.drawn += 1
            source.tokens += length
            room -= length
            yield source, document, start, length

    def metrics(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {source.name: {"drawn": source.drawn, "tokens": source.tokens} for source in self._sources}

    def restore(self, state: Mapping[str, Any]) -> None:
        for source in self._sources:
            source.drawn, source.tokens = state[source.name]["drawn"], state[source.name]["tokens"]

    def _furthest_behind(self) -> _Source | None:
        waiting = [source for source in self._sources if not source.exhausted]
        return min(waiting, key=lambda source: source.tokens / source.share, default=None)


def _make_source(name: str, weight: float, config: TrainConfig, splits: Mapping[str, TokenSplit]) -> _Source:
    if name not in splits:
        raise InputError(
            f'the shards have no split "{name}"', remedy=f"mixture can name: {', '.join(sorted(splits))}"
        )
    is_chat = name.startswith("chat")
    table = SequenceTable(splits[name].lengths, max_seq_len=config.max_seq_len, cut=not is_chat)
    if table.num_sequences == 0:
        raise InputError(
            f'split "{name}" holds no sequence of at most max_seq_len = {config.max_seq_len} tokens',
            remedy="raise max_seq_len or leave the split out of the mixture",
        )
    in_epochs = config.mixture_unit == "epochs"
    return _Source(
        name=name,
        split=splits[name],
        table=table,
        share=weight * table.num_tokens if in_epochs else weight,
        limit=max(1, round(weight * table.num_sequences)) if in_epochs else None,
        seed=config.seed,
    )
