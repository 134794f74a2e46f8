"""Answers to prompts, and their rewards: the generator's half of a roll-out. It keeps nothing, so any thread may ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hanok.training.align.config import AlignConfig
from hanok.training.rewards import Mix, Row, score
from hanok.training.rewards.shape import overlong_penalty
from hanok.training.rollouts.generator import Answer, Generator, longest_answer
from hanok.training.rollouts.prompts import Prompt

Group = tuple[Prompt, list[Answer], list[float]]  # a reward that could not be given is NaN


@dataclass(frozen=True, slots=True)
class Judged:
    """Args: groups: in the order of their draws. metrics: of the rewards. outcomes: of each reward, the first that was none."""

    groups: list[Group]
    metrics: dict[str, float]
    outcomes: str

    def to_json(self) -> dict[str, Any]:
        """Without the prompts, which follow from the draws."""
        groups = [
            {
                "answers": [asdict(answer) for answer in answers],
                "rewards": [None if math.isnan(reward) else reward for reward in rewards],
            }
            for _, answers, rewards in self.groups
        ]
        return {"groups": groups, "metrics": self.metrics, "outcomes": self.outcomes}


def judged_from_json(row: Mapping[str, Any], prompts: Sequence[Prompt]) -> Judged:
    groups = [
        (
            prompt,
            [_answer(answer) for answer in group["answers"]],
            [math.nan if reward is None else reward for reward in group["rewards"]],
        )
        for prompt, group in zip(prompts, row["groups"], strict=True)
    ]
    return Judged(groups, row["metrics"], row["outcomes"])


class Judging:
    def __init__(self, config: AlignConfig, *, generator: Generator, rewards: Mix) -> None:
        self._config, self._generator, self._rewards = config, generator, rewards

    def answers(self, prompts: Sequence[Prompt], draws: Sequence[int]) -> Judged:
        """`group_size` answers to each prompt, with their rewards."""
        answers = self._generator.sample(prompts, draws=draws)
        batch = score(self._rewards, rows_of(prompts, answers))
        totals, size = batch.with_nan(), self._config.group_size
        groups = [
            (prompt, group, self._shaped(group, totals[place * size : (place + 1) * size]))
            for place, (prompt, group) in enumerate(zip(prompts, answers, strict=True))
        ]
        outcomes = "; ".join(
            f"{name}: {next((reason for reason in counter if reason != 'scored'), 'scored')}"
            for name, counter in batch.counts.items()
        )
        return Judged(groups, batch.metrics(), outcomes)

    def _shaped(self, group: Sequence[Answer], rewards: Sequence[float]) -> list[float]:
        """DAPO's penalty on answers that come near the limit (arXiv 2503.14476, equation 13)."""
        cache, limit = self._config.overlong_cache, longest_answer(self._config)
        if not cache:
            return list(rewards)
        return [
            reward + overlong_penalty(len(answer.ids), limit, cache)
            for reward, answer in zip(rewards, group, strict=True)
        ]


def rows_of(prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]) -> list[Row]:
    """As rewards read them."""
    return [
        Row(prompt.messages, answer.text, {**prompt.columns, "completion_tokens": len(answer.ids)})
        for prompt, group in zip(prompts, answers, strict=True)
        for answer in group
    ]


def _answer(row: Mapping[str, Any]) -> Answer:
    chunks = tuple((tuple(context), count) for context, count in row["chunks"])
    return Answer(tuple(row["ids"]), tuple(row["logprobs"]), row["text"], row["truncated"], chunks)
