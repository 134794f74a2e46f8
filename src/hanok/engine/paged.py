"""Who runs next, for models whose cache lies in blocks: one step takes a token of every running answer and pieces of new
prompts together, within the cache's blocks.

On the native kernels a row's numbers do not depend on its company or on how its prompt was cut, so scheduling is free: answers
are the same bits whoever else is there. When the blocks run out, the last in order gives its own back and is read again later,
from where the cache still has its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from hanok.engine.blocks import BLOCK
from hanok.engine.echo import ECHO_ROWS
from hanok.engine.generation import Generation
from hanok.engine.learned import LearnedLaws
from hanok.engine.metrics import Counters
from hanok.engine.native import NativeDecoder
from hanok.engine.paged_model import PagedModel
from hanok.engine.running import Part, Running, StepRows, last_border, reserve, rows_of
from hanok.engine.sampler import choose
from hanok.engine.speculation.speculator import LIMIT, Speculator, may_guess
from hanok.engine.strides import Strides
from hanok.engine.taking import take_drawn, take_guessed
from hanok.engine.turns import Turns

STEP_ROWS = 512  # tokens of one step at most: running answers stutter no longer than this takes


class PagedScheduler:
    """All requests of one engine. `add`, then `step` until `has_work()` is false.

    Args:
        vocabulary: ids from here on are never chosen: rows of the head that no token stands for.
        speculator: makes guesses at what follows, which a step verifies: at each the token is chosen as ever, and those
            guesses count that are the chosen tokens.
        laws: of the model's decoding heads, if it has any.
    """

    def __init__(
        self, model: PagedModel, *, max_running: int, vocabulary: int, speculator: Speculator | None = None,
        laws: LearnedLaws | None = None, clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._laws = laws
        self._model, self._vocabulary, self._max_running = model, vocabulary, max_running
        self._speculator, self._clock = speculator, clock
        self._strides = (
            Strides(model, vocabulary=vocabulary, laws=laws) if isinstance(model, NativeDecoder) else None
        )
        self._pool, self._snapshots = model.pool, model.snapshots
        self._waiting = Turns()
        self._running: list[Running] = []
        self._slots, self._spares = list(range(model.slots)), list(model.spares)
        self.counters = Counters()

    def add(self, generation: Generation) -> None:
        """Prompt and answer together must fit the cache; the engine's context sees to that."""
        self._waiting.push(generation)

    @property
    def waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def places(self) -> int:
        """How many more may run at once, as far as the cache has room for them."""
        return self._max_running - len(self._running)

    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def step(self) -> None:
        """Some rows through the model, and a token for everyone whose last row was among them; or some tokens for everyone, where
        all do nothing but answer."""
        self._drop_cancelled()
        self._admit()
        parts = self._plan()
        if not parts:
            return
        guessing = self._speculator is not None and _all_answers(parts) and self._speculator.awake()
        if guessing and self._speculator is not None:
            parts = self._with_guesses(parts, self._speculator)
        started = self._clock()
        steps = 0 if self._strides is None or any(map(self._follows, parts)) else self._strides.steps(parts)
        if steps and self._strides is not None:
            steps = self._stride(parts, steps, self._strides)
            seconds = (self._clock() - started) / steps
            self._strides.took(len(parts), seconds)
        else:
            self._single_step(parts)
            seconds = self._clock() - started
        if self._speculator is not None and (guessing or steps):
            self._speculator.stepped(sum(part.count + len(part.draft) for part in parts), seconds)

    def _stride(self, parts: Sequence[Part], steps: int, strides: Strides) -> int:
        """Tokens for everyone, one or some, in one call of the model; returns how many steps that took."""
        with self.counters.model():
            drawn = strides.draw(parts, steps)
        steps = len(drawn[0])
        self.counters.steps += steps - 1  # whoever called counts one
        if self._speculator is not None:
            self._speculator.skip(steps - 1)
        for part, tokens in zip(parts, drawn, strict=True):
            running, before = part.running, part.running.length
            taken = take_drawn(part, tokens)
            running.done = part.start + taken
            self._remember(running)
            self.counters.generated_tokens += taken
            self._waiting.serve(running.generation, running.length - before)
            if running.generation.finish_reason is not None:
                self._release(running)
        return steps

    def _single_step(self, parts: Sequence[Part]) -> None:
        rows = rows_of(parts)
        followed = self._followed(parts, rows)
        with self.counters.model():
            logits_BV, hidden_BD = self._compute(rows, parts, followed)
        answering = [part for part in parts if part.answers]
        continued = sum(1 for part in answering if part.running.generation.ids)
        self.counters.prefilled_tokens += sum(part.count for part in parts) - continued
        answers = first = len(rows.wanted) - rows.echoed
        for part in parts if rows.echoed else ():
            part.take_echo(logits_BV[first : first + len(part.echoed), : self._vocabulary])
            first += len(part.echoed)
        for part in parts:
            part.running.done = part.end
            self._remember(part.running)
            if part.saves:
                self._keep_snapshots(part)
        if rows.echoed:
            logits_BV = logits_BV[:answers]
        held = self._answer(answering, logits_BV.narrow(1, 0, self._vocabulary))
        if followed is not None and hidden_BD is not None:
            self._show(parts, rows, followed, hidden_BD, held)

    def _compute(
        self, rows: StepRows, parts: Sequence[Part], followed: Sequence[int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """The logits of the wanted rows; and for answers that learned laws steer, the law of the next token.

        Also, where somebody asks for them, the hidden vectors of the wanted rows and of those `followed`.
        """
        step = (
            rows.ids, rows.positions, rows.sequences, rows.tables, rows.wanted, rows.slots, rows.saves, rows.adapters,
        )  # fmt: skip
        answers = [part for part in parts if part.answers]
        learned = [] if self._laws is None else _learned(answers)
        if not learned and followed is None:
            return self._model.step(*step), None
        logits_BV, hidden_BD = self._model.step_with_hidden(*step, also=followed or ())
        if learned and self._laws is not None:
            self._laws.assign(learned, hidden_BD, logits_BV)
        return logits_BV, hidden_BD

    def _follows(self, part: Part) -> bool:
        return self._speculator is not None and self._speculator.follows(part)

    def _followed(self, parts: Sequence[Part], rows: StepRows) -> list[int] | None:
        """Rows that are not wanted for their logits, but by heads that guess, for their hidden vectors; None: no heads do."""
        if self._speculator is None:
            return None
        spans = [
            range(first, first + len(part.ids))
            for part, first in zip(parts, rows.firsts, strict=True)
            if self._follows(part)
        ]
        if not spans:
            return None
        wanted = set(rows.wanted)
        return [row for span in spans for row in span if row not in wanted]

    def _show(
        self,
        parts: Sequence[Part],
        rows: StepRows,
        followed: Sequence[int],
        hidden_BD: Tensor,
        held: dict[Running, int],
    ) -> None:
        """To the heads that guess, what stands behind the tokens that became part of a text."""
        assert self._speculator is not None
        at = {row: place for place, row in enumerate([*rows.wanted, *followed])}
        for part, first in zip(parts, rows.firsts, strict=True):
            if part.running.generation.finish_reason is None and self._follows(part):
                count = part.count + held.get(part.running, 0)
                places = [at[row] for row in range(first, first + count)]
                self._speculator.observe(part.running, part.start, hidden_BD[places])

    def abandon(self) -> list[Generation]:
        """Forget everything (after an error); returns what was under way."""
        lost = [*self._waiting, *(running.generation for running in self._running)]
        for running in list(self._running):
            self._release(running)
        self._waiting.clear()
        self._snapshots.cancel_all()
        self._slots, self._spares = list(range(self._model.slots)), list(self._model.spares)
        return lost

    def forget_past(self) -> None:
        """The weights changed: nothing that was computed before may be found again."""
        self._pool.forget_all()
        self._snapshots.forget_all()
        for running in self._running:
            running.stale, running.trail = True, None
        if self._speculator is not None:
            self._speculator.refill()

    def check(self) -> None:
        """No block, place or snapshot is lost or held twice. For tests."""
        self._pool.check([running.blocks for running in self._running])
        self._snapshots.check()
        places = [*self._slots, *self._spares, *(running.slot for running in self._running)]
        assert sorted(places) == [*range(self._model.slots), *self._model.spares]

    def _admit(self) -> None:
        """Take in what fits: the prompt's blocks and one more, as far as the cache does not have them already."""
        while self._waiting and self._slots and len(self._running) < self._max_running:
            running = self._arrived(self._waiting.first(), self._slots[-1])
            if -(-running.length // BLOCK) - len(running.blocks) > self._pool.free and self._running:
                self._pool.give_back(running.blocks)
                return
            self._waiting.pop()
            self._slots.pop()
            if running.done and self._model.recurrent:
                self._snapshots.restore(running.names[-1], running.slot)
            generation = running.generation
            generation.admit(self.counters)
            cached = min(running.done, len(generation.request.prompt_ids))
            self.counters.cached_tokens += cached
            generation.cached = max(generation.cached, cached)
            self._running.append(running)

    def _arrived(self, generation: Generation, slot: int) -> Running:
        """With what the cache has of its beginning."""
        running = Running(generation, slot, len(generation.request.prompt_ids) + len(generation.ids))
        names = list(running.block_names(0, running.length - 1))
        echo = generation.echo  # what is not read is not scored
        running.blocks = self._pool.find(names) if echo is None or echo.complete else []
        if self._model.recurrent:
            known, usable = len(running.blocks), self._snapshots.longest(names[: len(running.blocks)])
            self._pool.give_back(running.blocks[usable:])
            del running.blocks[usable:]
            borders = {last_border(running.length)}
            if known > usable:  # somebody else's text goes on differently from here: a third may come
                borders.add(known * BLOCK)
            running.borders = frozenset(borders)
        running.names = names[: len(running.blocks)]
        running.done = len(running.blocks) * BLOCK
        return running

    def _plan(self) -> list[Part]:
        """Rows of this step: answers under way first, then prompts in order; each with the blocks it needs."""
        order = self._running[:]
        if len(order) > 1:
            order.sort(key=lambda r: (r.length - r.done > LIMIT + 1, r.generation.order))
        counts: dict[Running, int] = {}
        room = STEP_ROWS
        for running in order:
            if running not in self._running:
                continue  # gave its blocks to somebody before it
            count = min(running.length - running.done, room)
            if running.generation.echo is not None:
                count = min(count, ECHO_ROWS)
            if count and self._provide(running, running.done + count, counts):
                counts[running] = count
                room -= count
        return [
            Part(running, running.done, count, saves=self._saves(running, running.done + count))
            for running, count in counts.items()
        ]

    def _provide(self, running: Running, tokens: int, settled: dict[Running, int]) -> bool:
        """Blocks for so many tokens, from those that come last in order if need be; False if there are none to take."""
        missing = -(-tokens // BLOCK) - len(running.blocks)
        while missing > self._pool.free:
            others = [r for r in self._running if r is not running and r not in settled and r.blocks]
            last = max(others, key=lambda r: r.generation.order, default=None)
            if last is None or last.generation.order < running.generation.order:
                self._preempt(running)
                return False
            self._preempt(last)
        if missing > 0:
            running.blocks += self._pool.take(missing)
        return True

    def _preempt(self, running: Running) -> None:
        """Back to the waiting; what it had is read again when there is room."""
        self.counters.preemptions += 1
        self._release(running)
        self._waiting.put_back(running.generation)

    def _saves(self, running: Running, end: int) -> dict[int, int]:
        """Places for the snapshots of the borders up to `end`."""
        if not self._snapshots.size or not self._model.recurrent or running.stale:
            return {}
        saves: dict[int, int] = {}
        spacing = self._snapshots.spacing(running.entered)
        for border in range((running.done // BLOCK + 1) * BLOCK, end + 1, BLOCK):
            if border > running.entered:
                if not self._clear_trail(running):
                    continue
            elif border % spacing and border not in running.borders:
                continue
            place = self._snapshots.reserve()
            if place is None:
                break
            saves[border] = place
        return saves

    def _clear_trail(self, running: Running) -> bool:
        """Make room for the next snapshot of a growing answer: it takes the place of the one before. False if others'
        answers have half of all places already."""
        if running.trail is not None:
            self._snapshots.drop(running.trail)
            running.trail = None
            return True
        trails = sum(other.trail is not None for other in self._running)
        return trails < max(1, self._snapshots.size // 2)

    def _keep_snapshots(self, part: Part) -> None:
        for border, place in part.saves.items():
            name = part.running.names[border // BLOCK - 1]
            self._snapshots.commit(place, name)
            if border > part.running.entered:
                part.running.trail = name

    def _remember(self, running: Running) -> None:
        full = running.done // BLOCK
        if full > len(running.names):
            start = len(running.names) * BLOCK
            before = running.names[-1] if running.names else b""
            for name in running.block_names(start, full * BLOCK, after=before):
                if not running.stale:
                    self._pool.remember(running.blocks[len(running.names)], name)
                running.names.append(name)

    def _with_guesses(self, parts: Sequence[Part], speculator: Speculator) -> list[Part]:
        since = self._clock()
        limits = {part.running: limit for part in parts if (limit := self._guess_limit(part)) > 0}
        if self._model.recurrent and len(limits) > len(self._spares):
            limits = dict(list(limits.items())[: len(self._spares)])
        rows = sum(part.count for part in parts)
        guesses = speculator.drafts(limits, rows, len(parts), since=since) if limits else {}
        return [self._with_draft(part, guesses.get(part.running, ())) for part in parts]

    def _guess_limit(self, part: Part) -> int:
        """Guesses that this answer could use."""
        generation = part.running.generation
        limit = min(LIMIT, generation.limit - len(generation.ids) - 1)
        if not may_guess(generation):
            return 0
        if self._model.recurrent:  # a snapshot at the next border is of tokens that are certain
            limit = 0 if part.end in part.saves else min(limit, BLOCK - 1 - part.end % BLOCK)
        room = (len(part.running.blocks) + (self._pool.free > 0)) * BLOCK - part.end
        return min(limit, room)

    def _with_draft(self, part: Part, draft: Sequence[int]) -> Part:
        """With as many guesses as there are blocks for; nobody is pushed out for a guess."""
        running = part.running
        draft = draft[: reserve(self._pool, running, part.end, len(draft))]
        if not draft:
            return part
        fork = self._spares.pop() if self._model.recurrent else None
        return replace(part, draft=draft, fork=fork)

    def _answer(self, parts: Sequence[Part], logits_BV: Tensor) -> dict[Running, int]:
        """Tokens for each part, one behind each guess as if it held, as far as the guesses do: how many those were."""
        held: dict[Running, int] = {}
        if not parts:
            return held
        draws = [
            part.running.generation.draw_after(part.draft[:place])
            for part in parts
            for place in range(len(part.draft) + 1)
        ]
        drawn = iter(choose(logits_BV, draws, self._model.crew))
        for part in parts:
            before = part.running.length
            chosen, accepted = take_guessed(part, [next(drawn) for _ in part.wanted])
            self.counters.generated_tokens += chosen
            self._waiting.serve(part.running.generation, part.running.length - before)
            held[part.running] = accepted
            if part.draft:
                self._settle(part, accepted)
            if part.running.generation.finish_reason is not None:
                self._release(part.running)
        return held

    def _settle(self, part: Part, accepted: int) -> None:
        """After guesses: what of them was read, and which states are those of the text."""
        running = part.running
        assert self._speculator is not None
        self._speculator.verified(running, len(part.draft), accepted)
        self.counters.drafted_tokens += len(part.draft)
        self.counters.accepted_tokens += accepted
        if part.fork is not None:
            kept, unneeded = running.slot, part.fork
            if accepted < len(part.draft):  # back to before the guesses; those that held are read again
                kept, unneeded, accepted = unneeded, kept, 0
            running.slot = kept
            self._spares.append(unneeded)
        running.done = part.end + accepted
        self._remember(running)

    def _release(self, running: Running) -> None:
        self._running.remove(running)
        self._pool.give_back(running.blocks)
        self._slots.append(running.slot)
        running.blocks = []
        if self._speculator is not None:
            self._speculator.release(running)

    def _drop_cancelled(self) -> None:
        for running in list(self._running):
            if running.generation.is_over():
                running.generation.finish("cancelled")
                self._release(running)
        over = [g for g in self._waiting if g.is_over()] if self._waiting else []
        for generation in over:
            generation.finish("cancelled")
        if over:
            self._waiting.remove_finished()


def _learned(parts: Sequence[Part]) -> list[tuple[Generation, int]]:
    """Answers whose law is learned, with the first of their wanted rows: behind it lies what is certain."""
    found, row = [], 0
    for part in parts:
        if part.running.generation.learned:
            found.append((part.running.generation, row))
        row += len(part.wanted)
    return found


def _all_answers(parts: Sequence[Part]) -> bool:
    """Whether no prompt is being read in this step, so that its time is that of its number of rows."""
    return all(part.answers and part.count <= LIMIT + 1 for part in parts)
