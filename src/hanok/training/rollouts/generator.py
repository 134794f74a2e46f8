"""Answers from the policy as it stands: the engine with the learner's weights.

Token ids stay ids: an answer is the ids that were drawn, the one that ended it included, with the log-probabilities
that the engine drew them by. A sample's seed comes from (run seed, number of the prompt's draw) and its index alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hanok.engine.api import Completion, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.thinking import Delethink, Trace, think
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.training.align.config import AlignConfig
from hanok.training.rollouts.prompts import Prompt

_RUNNING = 256  # sequences that decode together


@dataclass(frozen=True, slots=True)
class Answer:
    """Args:
    logprobs: one an id, of the engine's law at temperature 1. text: reasoning and control tokens included, without the one
    that ended it. truncated: it did not end by itself.
    chunks: where it was written in several: what each of them was written from, and how many of the ids it wrote.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    truncated: bool
    chunks: tuple[tuple[tuple[int, ...], int], ...] = ()

    def pieces(self, prompt: Prompt) -> list[tuple[tuple[int, ...], range]]:
        """What each piece was written from, and which ids it is."""
        found, start = [], 0
        for context, count in self.chunks or ((prompt.ids, len(self.ids)),):
            found.append((context, range(start, start + count)))
            start += count
        return found


class Generator:
    """Args: model: a directory of the learner's shape, whose weights are replaced at each roll-out."""

    def __init__(self, model: Path, config: AlignConfig, *, threads: int) -> None:
        self._config = config
        self._engine = LocalEngine(model, threads=threads, weights=config.generator, max_running=_RUNNING)
        self._tokenizer = self._engine.tokenizer
        self._plan = plan_of(config)

    def take(self, decoder: Decoder) -> None:
        """The learner's weights, adapters in them."""
        self._engine.update_weights(plain_weights(decoder))

    def sample(self, prompts: Sequence[Prompt], *, draws: Sequence[int]) -> list[list[Answer]]:
        """`group_size` answers to each prompt; a prompt that is drawn twice gets others."""
        return self._sampled(prompts, draws, self._config.group_size)

    def validate(self, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        """To validate by: the likeliest answers, or `validation_answers` to each, drawn by the same numbers each time."""
        if self._config.validation_answers:
            draws = range(-len(prompts), 0)  # no roll-out has such numbers
            return self._sampled(prompts, draws, self._config.validation_answers)
        requests = [self._request(str(i), prompt, 0, 0, 0.0) for i, prompt in enumerate(prompts)]
        return [[answer] for answer in self._written(requests)]

    def _sampled(self, prompts: Sequence[Prompt], draws: Sequence[int], size: int) -> list[list[Answer]]:
        config = self._config
        requests = [
            self._request(f"{draw}-{sample}", prompt, _seed(config.seed, draw), sample, config.temperature)
            for prompt, draw in zip(prompts, draws, strict=True)
            for sample in range(size)
        ]
        answers = self._written(requests)
        return [answers[start : start + size] for start in range(0, len(answers), size)]

    def _written(self, requests: Sequence[Request]) -> list[Answer]:
        if self._plan is None:
            return [self._answer(completion) for completion in self._engine.generate(requests)]
        return [self._traced(trace) for trace in think(self._engine, requests, self._plan)]

    def close(self) -> None:
        self._engine.close()

    def _request(self, name: str, prompt: Prompt, seed: int, sample: int, temperature: float) -> Request:
        params = SamplingParams(
            decoding="fixed",
            max_tokens=self._config.max_new_tokens if self._plan is None else None,
            temperature=temperature,
            seed=seed,
            logprobs=0,
        )
        return Request(id=name, prompt_ids=prompt.ids, params=params, sample_index=sample)

    def _answer(self, completion: Completion) -> Answer:
        ids, logprobs = completion.ids, completion.logprobs
        assert logprobs is not None
        text = self._tokenizer.decode(ids, skip_special=False)
        if completion.stop_id is not None:
            assert completion.stop_logprob is not None
            ids, logprobs = (*ids, completion.stop_id), (*logprobs, completion.stop_logprob)
        return Answer(ids, logprobs, text, truncated=completion.stop_id is None)

    def _traced(self, trace: Trace) -> Answer:
        chunks = tuple((chunk.prompt_ids, len(chunk.drawn_ids)) for chunk in trace.chunks)
        return replace(self._answer(trace.completion), chunks=chunks)


def plan_of(config: AlignConfig) -> Delethink | None:
    """How answers are written in chunks; None: at once."""
    if config.think == "plain":
        return None
    return Delethink(chunk=config.chunk, carry=config.carry, chunks=config.chunks, head=config.carry_head)


def longest_answer(config: AlignConfig) -> int:
    plan = plan_of(config)
    return config.max_new_tokens if plan is None else plan.budget


@torch.no_grad()
def plain_weights(decoder: Decoder) -> dict[str, Tensor]:
    """By the names of a decoder without adapters; active ones are added into their maps. Router biases are buffers."""
    weights = {name: p.detach() for name, p in decoder.state_dict().items() if ".adapters." not in name}
    for name, module in decoder.named_modules():
        if isinstance(module, Linear) and module.active_adapters():
            weights[f"{name}.weight"] = module.effective_weight().detach()
    return weights


def _seed(*parts: object) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
