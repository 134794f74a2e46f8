"""Who runs next: prompts are read in pieces, between them all running sequences decode one token together.

Borders between the pieces of a prompt lie at absolute multiples of `PIECE`, itself a multiple of the 64 tokens of the
chunked recurrence, whatever else is running; so a prompt is computed in the same way in any company.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.engine.batch import DecodeBatch
from hanok.engine.echo import ECHO_ROWS
from hanok.engine.generation import Generation
from hanok.engine.learned import LearnedLaws
from hanok.engine.metrics import Counters
from hanok.engine.sampler import choose
from hanok.engine.turns import Turns
from hanok.models.decoder import Decoder
from hanok.models.lora_rows import ROW_MULTIPLE, acting_on
from hanok.models.state import DecoderState

PIECE = 512
PREFILL_BUDGET = (
    2048  # prompt tokens between two decode steps: running answers stutter no longer than this takes
)


class Scheduler:
    """All requests of one engine. `add`, then `step` until `has_work()` is false.

    Args:
        vocabulary: ids from here on are never chosen: rows of the head that no token stands for.
        laws: of the model's decoding heads, if it has any.
    """

    def __init__(
        self, decoder: Decoder, *, max_running: int, vocabulary: int, laws: LearnedLaws | None = None
    ) -> None:
        self._decoder, self._laws = decoder, laws
        self._vocabulary = vocabulary
        self._max_running = max_running
        self._waiting = Turns()
        self._prefilling: list[Generation] = []
        self._batch = DecodeBatch(decoder)
        self.counters = Counters()

    def add(self, generation: Generation) -> None:
        self._waiting.push(generation)

    @property
    def waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._waiting)

    @property
    def places(self) -> int:
        """How many more may run at once, as far as the cache has room for them."""
        return self._max_running - len(self._prefilling) - len(self._batch.active)

    def has_work(self) -> bool:
        return bool(self._waiting or self._prefilling or self._batch.active)

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._batch.active)

    def step(self) -> None:
        """Some prompt pieces, then one token for every running sequence."""
        self._drop_cancelled()
        while self._waiting and len(self._prefilling) + len(self._batch.active) < self._max_running:
            self._prefilling.append(self._waiting.pop())
            self._prefilling[-1].admit(self.counters)
        if self._prefilling:
            self._prefill()
        if self._batch.active:
            with self.counters.model():
                answers = self._batch.step()
            self._take(*answers)
            self._batch.release()

    def abandon(self) -> list[Generation]:
        """Forget everything (after an error); returns what was under way."""
        lost = [*self._waiting, *self._prefilling, *self._batch.active]
        self._waiting.clear()
        self._prefilling, self._batch = [], DecodeBatch(self._decoder)
        return lost

    def forget_past(self) -> None:
        """The weights changed; nothing of the past is kept here anyway."""

    def check(self) -> None:
        """Nothing is shared here that could be lost."""

    def _prefill(self) -> None:
        pieces: list[Generation] = []
        room = PREFILL_BUDGET
        for generation in sorted(self._prefilling, key=lambda g: g.order):
            room -= _piece_length(generation)
            if pieces and room < 0:
                break
            pieces.append(generation)
        # a piece of one token takes the decode path of the layers; whether it does must not depend on its company
        for group in (
            [g for g in pieces if _piece_length(g) > 1],
            [g for g in pieces if _piece_length(g) == 1],
        ):
            if group:
                self._read(group)
        self._prefilling = [
            g for g in self._prefilling if g.state is not None or not (g.ids or g.finish_reason)
        ]

    def _read(self, group: Sequence[Generation]) -> None:
        """Run one piece of each prompt; those that are through get their first token and join the batch."""
        lengths = [_piece_length(g) for g in group]
        ids = [
            token
            for g, n in zip(group, lengths, strict=True)
            for token in g.request.prompt_ids[g.prefilled :][:n]
        ]
        spare = -sum(lengths) % ROW_MULTIPLE  # tokens of company that round the matrices up
        company = [1] * spare if max(lengths) == 1 else [spare] if spare else []
        states = [g.state or self._decoder.new_state(1) for g in group]
        state = DecoderState.concatenate([*states, self._decoder.new_state(len(company))])
        bounds = torch.tensor([0, *lengths, *company]).cumsum(0).to(torch.int32)
        adapters = [g.lows for g, n in zip(group, lengths, strict=True) for _ in range(n)]
        with self.counters.model(), acting_on(self._decoder, [*adapters, *[None] * spare]):
            hidden_ND, _ = self._decoder(torch.tensor([*ids, *[0] * spare]), bounds, state)
        self.counters.prefilled_tokens += len(ids)
        through = []
        self._echo(group, lengths, hidden_ND)
        for b, (generation, length) in enumerate(zip(group, lengths, strict=True)):
            generation.prefilled += length
            if generation.prefilled == len(generation.request.prompt_ids):
                through.append(b)
                generation.state = None
            else:
                generation.state = state.select([b])
        if not through:
            return
        self._take([group[b] for b in through], *self._last_logits(hidden_ND, bounds, through, group))
        alive = [b for b in through if group[b].finish_reason is None]
        if alive:
            self._batch.admit([group[b] for b in alive], state.select(alive))

    def _echo(self, group: Sequence[Generation], lengths: Sequence[int], hidden_ND: Tensor) -> None:
        """Logprobs of these pieces of prompts, for those who want them; slices lie at absolute places, as pieces do."""
        first = 0
        for generation, length in zip(group, lengths, strict=True):
            if (echo := generation.echo) is not None:
                places = echo.rows(generation.prefilled, generation.prefilled + length)
                for start in range(0, len(places), ECHO_ROWS):
                    rows = list(range(first + start, first + min(start + ECHO_ROWS, len(places))))
                    padded = rows + rows[:1] * (-len(rows) % ROW_MULTIPLE)
                    with acting_on(self._decoder, [generation.lows] * len(padded)):
                        logits_nV = self._decoder.logits(hidden_ND[padded])[: len(rows), : self._vocabulary]
                    echo.take(places.start + start, logits_nV)
            first += length

    def _last_logits(
        self, hidden_ND: Tensor, bounds: Tensor, sequences: Sequence[int], group: Sequence[Generation]
    ) -> tuple[Tensor, Tensor]:
        """Logits behind the last token of these sequences, and what they were made from."""
        last = [int(bounds[b + 1]) - 1 for b in sequences]
        padded = last + last[:1] * (-len(last) % ROW_MULTIPLE)
        adapters = [group[b].lows for b in sequences]
        padding = adapters[:1] * (-len(last) % ROW_MULTIPLE)
        with self.counters.model(), acting_on(self._decoder, [*adapters, *padding]):
            return self._decoder.logits(hidden_ND[padded])[: len(last)], hidden_ND[last]

    def _take(self, generations: Sequence[Generation], logits_BV: Tensor, hidden_BD: Tensor) -> None:
        self.counters.generated_tokens += len(generations)
        learned = [(one, row) for row, one in enumerate(generations) if one.learned]
        if learned and self._laws is not None:
            self._laws.assign(learned, hidden_BD, logits_BV)
        for generation, choice in zip(
            generations, choose(logits_BV[:, : self._vocabulary], [g.draw for g in generations]), strict=True
        ):
            generation.take(choice)
            self._waiting.serve(generation, 1)

    def _drop_cancelled(self) -> None:
        everyone = [*self._waiting, *self._prefilling, *self._batch.active]
        over = [g for g in everyone if g.is_over()]
        if not over:
            return
        for generation in over:
            generation.finish("cancelled")
        self._waiting.remove_finished()
        self._prefilling = [g for g in self._prefilling if g.finish_reason is None]
        self._batch.release()


def _piece_length(generation: Generation) -> int:
    return min(PIECE, len(generation.request.prompt_ids) - generation.prefilled)
