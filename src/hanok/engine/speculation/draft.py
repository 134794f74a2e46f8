"""Guesses from a smaller model with the same tokeniser, which reads along in a cache of its own.

It chooses with the same settings and the same uniform numbers that the answer's own tokens will be chosen with at those
positions, so that two distributions that are alike mostly choose the same token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hanok.engine.blocks import BLOCK
from hanok.engine.native import NativeDecoder
from hanok.engine.running import Part, Running, rows_of
from hanok.engine.sampler import Choice, Draw, choose

READ_ROWS = 512  # tokens that it reads in one call to catch up


@dataclass(slots=True, eq=False)
class _Reader:
    """Args: slot, spare: of states; the spare one keeps those behind the text while guesses are read. done: tokens read."""

    slot: int
    spare: int
    blocks: list[int] = field(default_factory=list)
    done: int = 0


class DraftModel:
    """Args: model: with as many spare places as slots. vocabulary: ids from here on are never guessed."""

    def __init__(self, model: NativeDecoder, *, vocabulary: int) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._readers: dict[Running, _Reader] = {}
        self._free = list(zip(range(model.slots), model.spares, strict=True))

    def propose(self, limits: Mapping[Running, int]) -> dict[Running, list[int]]:
        """At most so many tokens for each text; only of those that it has caught up with and has room for."""
        going, logits_BV = self._catch_up([r for r, limit in limits.items() if self._make_room(r, limit)])
        guesses: dict[Running, list[int]] = {running: [] for running in going}
        stuck: set[Running] = set()  # whose numbers are none: the draft guesses no further
        while going:
            draws = [draw_behind(running, guesses[running]) for running in going]
            for running, choice in zip(
                going, choose(logits_BV[:, : self._vocabulary], draws, self._model.crew), strict=True
            ):
                if isinstance(choice, Choice):
                    guesses[running].append(choice.token)
                else:
                    stuck.add(running)
            going = [
                r for r in going if r not in stuck and len(guesses[r]) < limits[r] and not ends(r, guesses[r])
            ]
            if going:
                del logits_BV  # the next take its memory
                logits_BV = self._feed(going, guesses)
        for running, tokens in guesses.items():
            if ends(running, tokens):
                tokens.pop()
            reader = self._readers[running]
            reader.slot, reader.spare = reader.spare, reader.slot
        return guesses

    def release(self, running: Running) -> None:
        reader = self._readers.pop(running, None)
        if reader is not None:
            self._model.pool.give_back(reader.blocks)
            self._free.append((reader.slot, reader.spare))

    def check(self) -> None:
        """No block is lost or held twice. For tests."""
        self._model.pool.check([reader.blocks for reader in self._readers.values()])
        assert len(self._free) + len(self._readers) == self._model.slots

    def _make_room(self, running: Running, limit: int) -> bool:
        """Whether there is a place for the text and so many guesses."""
        reader = self._readers.get(running)
        length = running.length + limit
        if length > self._model.config.max_context or (reader is None and not self._free):
            return False
        missing = -(-length // BLOCK) - (0 if reader is None else len(reader.blocks))
        if missing > self._model.pool.free:
            return False
        if reader is None:
            reader = self._readers[running] = _Reader(*self._free.pop())
        reader.blocks += self._model.pool.take(max(0, missing))
        return True

    def _catch_up(self, everyone: list[Running]) -> tuple[list[Running], Tensor]:
        """Read what is new in each text; those that are through, with the logits behind them."""
        parts: list[Part] = []
        room = READ_ROWS
        for running in everyone:
            reader = self._readers[running]
            count = min(running.length - reader.done, room)
            if count:
                parts.append(Part(running, reader.done, count))
                reader.done += count
                room -= count
        through = [part.running for part in parts if part.answers]
        if not parts:
            return [], torch.empty(0)
        rows = rows_of(parts)
        readers = [self._readers[part.running] for part in parts]
        last = rows.wanted
        spares = [self._readers[running].spare for running in through]
        saves = dict(zip(last, spares, strict=True)) if self._model.recurrent else {}
        logits_BV = self._model.step(
            rows.ids, rows.positions, rows.sequences, [r.blocks for r in readers], last, [r.slot for r in readers], saves
        )  # fmt: skip
        return through, logits_BV

    def _feed(self, going: list[Running], guesses: Mapping[Running, list[int]]) -> Tensor:
        readers = [self._readers[running] for running in going]
        places = [running.length + len(guesses[running]) - 1 for running in going]
        each = range(len(going))
        return self._model.step(
            [guesses[running][-1] for running in going], places, each, [r.blocks for r in readers], each,
            [r.slot for r in readers],
        )  # fmt: skip


def draw_behind(running: Running, guesses: list[int]) -> Draw:
    """What would decide the token behind so many guesses, as far as it matters for which one comes."""
    draw = running.generation.draw_after(guesses)
    if draw.params.logprobs is not None:
        draw = draw._replace(params=replace(draw.params, logprobs=None))
    return draw


def ends(running: Running, tokens: list[int]) -> bool:
    return bool(tokens) and tokens[-1] in running.generation.stop_ids
