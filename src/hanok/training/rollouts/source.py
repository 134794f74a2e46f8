"""The source of RL's steps: prompts in order, answers by the engine, rewards, advantages; in synchronous mode.

Everything follows from (seed, cursor, weights), so a run that is killed and resumed draws the same answers; what is left
of a roll-out between two updates is in the checkpoint. B answers, M their tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanok.artefacts import append_jsonl, write_atomic
from hanok.errors import HanokError
from hanok.models.decoder import Decoder
from hanok.reporting import log
from hanok.training.align.config import AlignConfig
from hanok.training.permutation import Permutation
from hanok.training.rewards import Mix, Row, score
from hanok.training.rewards.shape import overlong_penalty
from hanok.training.rollouts.generator import Answer, Generator, longest_answer
from hanok.training.rollouts.learning import Learning
from hanok.training.rollouts.prompts import Prompt
from hanok.training.rollouts.samples import Sample, from_json

Group = tuple[Prompt, list[Answer], list[float]]  # a reward that could not be given is NaN


class Rollouts:
    """Args:
    learning: makes samples of judged answers. samples_file: where some groups of each roll-out are kept for reading.
    """

    def __init__(
        self, method: str, config: AlignConfig, *, decoder: Decoder, prompts: Sequence[Prompt], generator: Generator,
        rewards: Mix, learning: Learning, samples_file: Path,
    ) -> None:  # fmt: skip
        self._method, self._config = method, config
        self._decoder, self._prompts, self._generator = decoder, prompts, generator
        self._rewards, self._learning, self._file = rewards, learning, samples_file
        self.drawn = self.rollout = 0
        self._parts: list[list[Sample]] = []
        self._metrics: dict[str, float] = {}
        self._file_is_cut = False
        self._unjudged = ""
        self._passed: dict[
            int, tuple[int, int]
        ] = {}  # place of a prompt -> right answers so far, and all of them

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int | None] | None:
        return None if max_steps is None else (max_steps, None)

    def draw_step(self) -> list[Sample]:
        """The next part of the roll-out, or a new one."""
        self._metrics = {}
        if not self._parts:
            self._parts = self._roll_out()
        return self._parts.pop(0)

    def metrics(self) -> Mapping[str, float]:
        """Of the roll-out, at its first update."""
        return self._metrics

    def state(self) -> dict[str, Any]:
        parts = [[sample.to_json() for sample in part] for part in self._parts]
        passed = [[place, *counts] for place, counts in self._passed.items()]
        return {"drawn": self.drawn, "rollout": self.rollout, "parts": parts, "passed": passed}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.drawn, self.rollout = state["drawn"], state["rollout"]
        self._parts = [[from_json(row) for row in part] for part in state["parts"]]
        self._passed = {place: (right, all_) for place, right, all_ in state["passed"]}
        self._file_is_cut = False

    def _roll_out(self) -> list[list[Sample]]:
        self._generator.take(self._decoder)
        groups, alike = self._groups()
        config = self._config
        per_part = config.prompts_per_step // config.updates_per_rollout
        parts = [groups[start : start + per_part] for start in range(0, len(groups), per_part)]
        found = self._learning.samples(parts)
        self._metrics |= found.metrics | self._about(groups, alike)
        self._keep(groups)
        self.rollout += 1
        return found.parts

    def _groups(self) -> tuple[list[Group], float]:
        """Judged answers in the order they were drawn, and the share of groups whose rewards were all alike.

        DAPO replaces those by others, as often as it may. Raises HanokError: not one answer could be judged.
        """
        wanted, dapo = self._config.prompts_per_step, self._method == "dapo"
        drawn = self._judged(wanted)
        useful = [group for group in drawn if _differ(group[2])]
        for _ in range(self._config.dynamic_sampling if dapo else 0):
            if len(useful) == wanted:
                break
            more = self._judged(wanted - len(useful))
            drawn += more
            useful += [group for group in more if _differ(group[2])]
        if all(np.isnan(reward) for _, _, rewards in drawn for reward in rewards):
            raise HanokError(
                f"roll-out {self.rollout}: none of the answers to {len(drawn)} prompts could be judged ({self._unjudged})",
                remedy="mend the reward; docs/guides/align.md says what it may return",
            )
        if not useful and self._method != "ppo":
            log.warning("roll-out %d: in none of %d groups do the rewards differ", self.rollout, len(drawn))
        groups = useful if dapo and useful else drawn[:wanted]
        return groups, 1 - len(useful) / len(drawn)

    def _next_prompts(self, count: int) -> tuple[list[Prompt], list[int]]:
        """And the numbers of their draws, of which no two are the same in a run. scalerl passes over what is mastered."""
        if len(self._prompts) - len(self._retired()) < min(count, len(self._prompts)):
            log.warning(
                "roll-out %d: too few prompts are left that are not mastered; all come back", self.rollout
            )
            self._passed = {}
        retired, draws = self._retired(), list[int]()
        while len(draws) < count:
            if self._place(self.drawn) not in retired:
                draws.append(self.drawn)
            self.drawn += 1
        return [self._prompts[self._place(number)] for number in draws], draws

    def _retired(self) -> set[int]:
        least = self._config.retire
        return {place for place, (right, all_) in self._passed.items() if right >= least * all_}

    def _remember(self, draws: Sequence[int], groups: Sequence[Group]) -> None:
        """Right answers by prompt; an answer that could not be judged does not count."""
        for number, (_, _, rewards) in zip(draws, groups, strict=True):
            known = [reward for reward in rewards if not np.isnan(reward)]
            right, all_ = self._passed.get(self._place(number), (0, 0))
            right += sum(reward >= self._config.pass_reward for reward in known)
            if known:
                self._passed[self._place(number)] = (right, all_ + len(known))

    def _place(self, number: int) -> int:
        epoch, offset = divmod(number, len(self._prompts))
        order = Permutation(len(self._prompts), f"prompts/{self._config.seed}/{epoch}")
        return int(order(np.array([offset]))[0])

    def _judged(self, count: int) -> list[Group]:
        """Answers to the next prompts, with their rewards."""
        prompts, draws = self._next_prompts(count)
        answers = self._generator.sample(prompts, draws=draws)
        rows = [
            Row(prompt.messages, answer.text, {**prompt.columns, "completion_tokens": len(answer.ids)})
            for prompt, group in zip(prompts, answers, strict=True)
            for answer in group
        ]
        batch = score(self._rewards, rows)
        for name, value in batch.metrics().items():
            self._metrics.setdefault(name, value)
        self._unjudged = "; ".join(
            f"{name}: {next((reason for reason in counter if reason != 'scored'), 'scored')}"
            for name, counter in batch.counts.items()
        )
        totals = batch.with_nan()
        size = self._config.group_size
        groups = [
            (prompt, group, self._shaped(group, totals[place * size : (place + 1) * size]))
            for place, (prompt, group) in enumerate(zip(prompts, answers, strict=True))
        ]
        if self._method == "scalerl":
            self._remember(draws, groups)
        return groups

    def _shaped(self, group: Sequence[Answer], rewards: Sequence[float]) -> list[float]:
        """DAPO's penalty on answers that come near the limit (arXiv 2503.14476, equation 13)."""
        cache, limit = self._config.overlong_cache, longest_answer(self._config)
        if not cache:
            return list(rewards)
        return [
            reward + overlong_penalty(len(answer.ids), limit, cache)
            for reward, answer in zip(rewards, group, strict=True)
        ]

    def _about(self, groups: Sequence[Group], alike: float) -> dict[str, float]:
        answers = [answer for _, group, _ in groups for answer in group]
        return {
            **({} if self._method == "ppo" else {"rollout.zero_variance": alike}),  # PPO compares no answers
            "rollout.tokens": sum(len(answer.ids) for answer in answers) / len(answers),
            "rollout.truncated": sum(answer.truncated for answer in answers) / len(answers),
            "rollout.prompts_drawn": float(self.drawn),
            **(
                {"rollout.retired": len(self._retired()) / len(self._prompts)}
                if self._method == "scalerl"
                else {}
            ),
            **_about_chunks(groups),
        }

    def _keep(self, groups: Sequence[Group]) -> None:
        """A few groups for reading; what lies behind this roll-out came from a run that was cut off."""
        if not self._file_is_cut and self._file.exists():
            lines = self._file.read_text(encoding="utf-8", errors="replace").split("\n")
            kept = [line for line in lines if _rollout_of(line) < self.rollout]
            write_atomic(self._file, "".join(f"{line}\n" for line in kept))
        self._file_is_cut = True
        for prompt, answers, rewards in groups[: self._config.samples_kept]:
            append_jsonl(
                self._file,
                {
                    "rollout": self.rollout, "prompt": prompt.name, "messages": list(prompt.messages),
                    "answers": [answer.text for answer in answers],
                    "rewards": [None if np.isnan(reward) else reward for reward in rewards],
                },
            )  # fmt: skip


def validate(
    generator: Generator, prompts: Sequence[Prompt], rewards: Mix, decoder: Decoder
) -> dict[str, float]:
    """Rewards and length of answers to prompts that are not practised on."""
    generator.take(decoder)
    groups = generator.validate(prompts)
    rows = [
        Row(prompt.messages, answer.text, {**prompt.columns, "completion_tokens": len(answer.ids)})
        for prompt, group in zip(prompts, groups, strict=True)
        for answer in group
    ]
    found = {f"validation.{name}": value for name, value in score(rewards, rows).metrics().items()}
    found["validation.tokens"] = sum(len(answer.ids) for group in groups for answer in group) / len(rows)
    return found


def _about_chunks(groups: Sequence[Group]) -> dict[str, float]:
    """Chunks an answer, and the most tokens that one of them held."""
    counts = [len(answer.chunks) for _, group, _ in groups for answer in group]
    if not sum(counts):
        return {}
    held = [
        len(context) + len(ids) - 1
        for prompt, group, _ in groups
        for answer in group
        for context, ids in answer.pieces(prompt)
    ]
    return {"rollout.chunks": sum(counts) / len(counts), "rollout.peak_context": float(max(held))}


def _differ(rewards: Sequence[float]) -> bool:
    known = torch.tensor([reward for reward in rewards if not np.isnan(reward)])
    return len(known) > 1 and bool(known.max() > known.min())


def _rollout_of(line: str) -> float:
    """Of a line that a kill cut short: beyond all."""
    try:
        return json.loads(line)["rollout"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
