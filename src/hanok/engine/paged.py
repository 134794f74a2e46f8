"""Who runs next, for models that the native kernels run: one step takes a token of every running answer and pieces of new
prompts together, within the cache's blocks.

A row's numbers do not depend on its company or on how its prompt was cut, so scheduling is free: answers are the same bits
whoever else is there. When the blocks run out, the last in order gives its own back and is read again later.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hanok.engine.blocks import BLOCK, block_names
from hanok.engine.generation import Generation
from hanok.engine.learned import LearnedLaws
from hanok.engine.native import NativeDecoder
from hanok.engine.sampler import choose
from hanok.errors import HanokError

STEP_ROWS = 512  # tokens of one step at most: running answers stutter no longer than this takes


@dataclass(slots=True, eq=False)
class _Running:
    """Args:
    slot: of its states. blocks: that hold its keys and values. done: tokens read. names: of its full blocks so far.
    """

    generation: Generation
    slot: int
    blocks: list[int] = field(default_factory=list)
    done: int = 0
    names: list[bytes] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.generation.request.prompt_ids) + len(self.generation.ids)

    def tokens(self, start: int, end: int) -> list[int]:
        prompt = self.generation.request.prompt_ids
        if end <= len(prompt):
            return list(prompt[start:end])
        return [*prompt[start:], *self.generation.ids[max(0, start - len(prompt)) : end - len(prompt)]]


class PagedScheduler:
    """All requests of one engine. `add`, then `step` until `has_work()` is false.

    Args:
        vocabulary: ids from here on are never chosen: rows of the head that no token stands for.
        laws: of the model's decoding heads, if it has any.
    """

    def __init__(
        self, model: NativeDecoder, *, max_running: int, vocabulary: int, laws: LearnedLaws | None = None
    ) -> None:
        self._laws = laws
        self._model, self._vocabulary, self._max_running = model, vocabulary, max_running
        self._waiting: list[tuple[tuple[int, int], Generation]] = []
        self._running: list[_Running] = []
        self._slots = list(range(model.slots))

    def add(self, generation: Generation) -> None:
        """Prompt and answer together must fit the cache; the engine's context sees to that."""
        heapq.heappush(self._waiting, (generation.order, generation))

    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> None:
        """Some rows through the model, and a token for everyone whose last row was among them."""
        self._drop_cancelled()
        self._admit()
        rows = self._plan()
        if not rows:
            return
        ids, positions, sequences, wanted, ready = [], [], [], [], []
        for number, (running, count) in enumerate(rows):
            ids += running.tokens(running.done, running.done + count)
            positions += range(running.done, running.done + count)
            sequences += [number] * count
            running.done += count
            if running.done == running.length:
                wanted.append(len(ids) - 1)
                ready.append(running)
        tables, slots = [r.blocks for r, _ in rows], [r.slot for r, _ in rows]
        step = (ids, positions, sequences, tables, wanted, slots)
        generations = [running.generation for running in ready]
        if self._laws is not None and self._laws.wanted(generations):
            logits_BV, hidden_BD = self._model.step_with_hidden(*step)
            self._laws.assign(generations, hidden_BD, logits_BV)
        else:
            logits_BV = self._model.step(*step)
        for running, _ in rows:
            self._remember(running)
        ready, logits_BV = self._sound(ready, logits_BV)
        if ready:
            drawn = choose(logits_BV[:, : self._vocabulary], [running.generation.draw for running in ready])
            for running, choice in zip(ready, drawn, strict=True):
                running.generation.take(choice)
        for running in ready:
            if running.generation.finish_reason is not None:
                self._release(running)

    def abandon(self) -> list[Generation]:
        """Forget everything (after an error); returns what was under way."""
        lost = [*(g for _, g in self._waiting), *(running.generation for running in self._running)]
        for running in list(self._running):
            self._release(running)
        self._waiting = []
        return lost

    def check(self) -> None:
        """No block is lost or held twice. For tests."""
        self._model.pool.check([running.blocks for running in self._running])

    def _admit(self) -> None:
        """Take in what fits: the prompt's blocks and one more, as far as the cache does not have them already."""
        while self._waiting and self._slots and len(self._running) < self._max_running:
            running = _Running(self._waiting[0][1], self._slots[-1])
            tokens = running.tokens(0, running.length)
            names = list(block_names(tokens[:-1], running.generation.request.tenant))
            running.blocks = self._model.pool.find(names)
            if -(-running.length // BLOCK) - len(running.blocks) > self._model.pool.free and self._running:
                self._model.pool.give_back(running.blocks)
                return
            heapq.heappop(self._waiting)
            self._slots.pop()
            running.names = names[: len(running.blocks)]
            running.done = len(running.blocks) * BLOCK
            running.generation.cached = max(
                running.generation.cached, min(running.done, len(running.generation.request.prompt_ids))
            )
            self._running.append(running)

    def _plan(self) -> list[tuple[_Running, int]]:
        """Rows of this step: answers under way first, then prompts in order; each with the blocks it needs."""
        order = sorted(self._running, key=lambda r: (r.length - r.done > 1, r.generation.order))
        rows: list[tuple[_Running, int]] = []
        room = STEP_ROWS
        for running in order:
            if running not in self._running:
                continue  # gave its blocks to somebody before it
            count = min(running.length - running.done, room)
            if count and self._provide(running, running.done + count, [r for r, _ in rows]):
                rows.append((running, count))
                room -= count
        return rows

    def _provide(self, running: _Running, tokens: int, settled: Sequence[_Running]) -> bool:
        """Blocks for so many tokens, from those that come last in order if need be; False if there are none to take."""
        missing = -(-tokens // BLOCK) - len(running.blocks)
        while missing > self._model.pool.free:
            others = [r for r in self._running if r is not running and r not in settled and r.blocks]
            last = max(others, key=lambda r: r.generation.order, default=None)
            if last is None or last.generation.order < running.generation.order:
                self._preempt(running)
                return False
            self._preempt(last)
        if missing > 0:
            running.blocks += self._model.pool.take(missing)
        return True

    def _preempt(self, running: _Running) -> None:
        """Back to the waiting; what it had is read again when there is room."""
        self._release(running)
        heapq.heappush(self._waiting, (running.generation.order, running.generation))

    def _remember(self, running: _Running) -> None:
        full = running.done // BLOCK
        if full > len(running.names):
            start = len(running.names) * BLOCK
            tokens = running.tokens(start, full * BLOCK)
            before = running.names[-1] if running.names else b""
            for name in block_names(tokens, running.generation.request.tenant, after=before):
                self._model.pool.remember(running.blocks[len(running.names)], name)
                running.names.append(name)

    def _sound(self, ready: list[_Running], logits_BV: Tensor) -> tuple[list[_Running], Tensor]:
        """Without those whose logits are no numbers; their requests end with an error."""
        finite = torch.isfinite(logits_BV.sum(dim=-1)).tolist()
        if all(finite):
            return ready, logits_BV
        for running in [r for r, good in zip(ready, finite, strict=True) if not good]:
            running.generation.failed(
                HanokError(
                    "the model's logits are not finite", remedy="its weights are damaged, or take bf16"
                )
            )
            self._release(running)
        return [r for r, good in zip(ready, finite, strict=True) if good], logits_BV[torch.tensor(finite)]

    def _release(self, running: _Running) -> None:
        self._running.remove(running)
        self._model.pool.give_back(running.blocks)
        self._slots.append(running.slot)
        running.blocks = []

    def _drop_cancelled(self) -> None:
        for running in list(self._running):
            if running.generation.is_over():
                running.generation.finish("cancelled")
                self._release(running)
        over = [g for _, g in self._waiting if g.is_over()]
        if over:
            for generation in over:
                generation.finish("cancelled")
            self._waiting = [entry for entry in self._waiting if entry[1].finish_reason is None]
            heapq.heapify(self._waiting)
