"""The source of steps in which the student learns from its own answers: prompts, answers by the engine with its weights.

Nothing of an answer is kept between steps: the teacher scores it when it is learnt from. So the state is a few integers, and
a run that is killed and resumed draws the same answers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from hanok.errors import InputError
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.objective import Batches
from hanok.training.packing import PackedSequence
from hanok.training.rollouts.asking import Asks
from hanok.training.rollouts.generator import Answer, Generator
from hanok.training.rollouts.kept import KeptRows
from hanok.training.rollouts.prompts import Prompt
from hanok.training.rollouts.samples import as_sequence, name_of

_FRUITLESS = 100


class OwnAnswers:
    """Steps of the student's own answers among steps of given sequences, spread evenly; or both in every step.

    Args:
        share: of the steps that are the student's own.
        given: the other steps. beside: sequences that every step has beside its answers (their names begin with "corpus").
    """

    def __init__(
        self, decoder: Decoder, generator: Generator, asks: Asks, tokenizer: Tokenizer, *, share: float = 1.0,
        given: Batches[PackedSequence] | None = None, beside: Batches[PackedSequence] | None = None, kept: KeptRows,
    ) -> None:  # fmt: skip
        assert share == 1.0 or given is not None, "what are the other steps?"
        self._decoder, self._generator, self._asks, self._tokenizer = decoder, generator, asks, tokenizer
        self._share, self._given, self._beside, self._kept = share, given, beside, kept
        self.step = self.drawn = 0
        self._metrics: dict[str, float] = {}

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int | None] | None:
        return None if max_steps is None else (max_steps, None)

    def draw_step(self) -> list[PackedSequence]:
        self._metrics = {}
        own = math.floor((self.step + 1) * self._share) > math.floor(self.step * self._share)
        if own:
            found = self._answers()
        else:
            assert self._given is not None
            found = self._given.draw_step()
        if self._beside is not None:
            found += [dataclasses.replace(one, name=f"corpus {one.name}") for one in self._beside.draw_step()]
        self.step += 1
        return found

    def metrics(self) -> Mapping[str, float]:
        return self._metrics

    def state(self) -> dict[str, Any]:
        parts = {"asks": self._asks, "given": self._given, "beside": self._beside}
        states = {name: part.state() for name, part in parts.items() if part is not None}
        return {"step": self.step, "drawn": self.drawn, **states}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.drawn = state["step"], state["drawn"]
        self._asks.restore(state["asks"])
        for name, part in (("given", self._given), ("beside", self._beside)):
            if part is not None:
                part.restore(state[name])
        self._kept.again()

    def _answers(self) -> list[PackedSequence]:
        prompts = self._prompts()
        self._generator.take(self._decoder)
        groups = self._generator.sample(prompts, draws=range(self.drawn, self.drawn + len(prompts)))
        self.drawn += len(prompts)
        pairs = [
            (prompt, i, answer)
            for prompt, group in zip(prompts, groups, strict=True)
            for i, answer in enumerate(group)
        ]
        self._metrics = {
            "rollout.tokens": sum(len(answer.ids) for *_, answer in pairs) / len(pairs),
            "rollout.truncated": sum(answer.truncated for *_, answer in pairs) / len(pairs),
        }
        self._kept.keep(self.step, [self._row(prompt, answer) for prompt, _, answer in pairs])
        return [
            dataclasses.replace(as_sequence(prompt.ids, answer.ids), name=name_of(prompt.name, i, answer.ids))
            for prompt, i, answer in pairs
        ]

    def _prompts(self) -> list[Prompt]:
        for _ in range(_FRUITLESS):
            if prompts := self._asks.draw_step():
                return prompts
        raise InputError(
            "no prompt to answer: all are longer than there is room for",
            remedy="lower max_new_tokens, or raise max_seq_len",
        )

    def _row(self, prompt: Prompt, answer: Answer) -> dict[str, Any]:
        asked = self._tokenizer.decode(prompt.ids, skip_special=False)
        return {"prompt": asked, "answer": answer.text, "truncated": answer.truncated}
