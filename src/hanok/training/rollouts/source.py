"""The source of RL's steps: prompts in order, answers by the engine, rewards, advantages.

In synchronous mode (`overlap` 0) everything follows from (seed, cursor, weights), so a run that is killed and resumed draws
the same answers. With `overlap` k the generator writes k roll-outs ahead while the learner learns, and has new weights after
each update, within its answers; which token they meet is a matter of time, so no two runs are the same, but the ledger is
exact: every draw is learnt from once, in order. What is left of a roll-out between two updates, and what lies ready or was
begun ahead, is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanok.errors import HanokError
from hanok.models.decoder import Decoder
from hanok.reporting import log
from hanok.training.align.config import AlignConfig
from hanok.training.rewards import Mix, score
from hanok.training.rollouts.ahead import Ahead, Begun
from hanok.training.rollouts.draws import Draws
from hanok.training.rollouts.generator import Generator
from hanok.training.rollouts.judging import Group, Judged, Judging, judged_from_json, rows_of
from hanok.training.rollouts.kept import KeptRows
from hanok.training.rollouts.learning import Learning
from hanok.training.rollouts.prompts import Prompt
from hanok.training.rollouts.samples import Sample, from_json


class Rollouts:
    """Args:
    learning: makes samples of judged answers. samples_file: where some groups of each roll-out are kept for reading;
        `ledger.jsonl` beside it says which draws each roll-out was made of, where the two sides overlap.
    """

    def __init__(
        self, method: str, config: AlignConfig, *, decoder: Decoder, prompts: Sequence[Prompt], generator: Generator,
        rewards: Mix, learning: Learning, samples_file: Path,
    ) -> None:  # fmt: skip
        self._method, self._config = method, config
        self._decoder, self._generator, self._learning = decoder, generator, learning
        self._judging = Judging(config, generator=generator, rewards=rewards)
        self._draws = Draws(prompts, config)
        self._kept = KeptRows(samples_file, by="rollout", each=config.samples_kept)
        self._ledger = KeptRows(samples_file.with_name("ledger.jsonl"), by="rollout")
        self._ahead = Ahead(self._answers, depth=config.overlap) if config.overlap else None
        self.rollout = self._updates = 0
        self._parts: list[list[Sample]] = []
        self._metrics: dict[str, float] = {}

    @property
    def drawn(self) -> int:
        return self._draws.drawn

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int | None] | None:
        return None if max_steps is None else (max_steps, None)

    def draw_step(self) -> list[Sample]:
        """The next part of the roll-out, or a new one."""
        self._metrics = {}
        if not self._parts:
            self._parts = self._roll_out()
        elif self._ahead is not None:
            self._publish(self._ahead)
        self._updates += 1
        return self._parts.pop(0)

    def metrics(self) -> Mapping[str, float]:
        """Of the roll-out, at its first update."""
        return self._metrics

    def state(self) -> dict[str, Any]:
        parts = [[sample.to_json() for sample in part] for part in self._parts]
        state = {**self._draws.state(), "rollout": self.rollout, "parts": parts, "updates": self._updates}
        if self._config.kl_target is not None:
            state["kl_beta"] = self._learning.beta
        if self._ahead is not None:
            state["ahead"] = [
                {**asdict(begun), "ended": ended and {"updates": ended[1], **ended[0].to_json()}}
                for begun, ended in self._ahead.pending()
            ]
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._draws.restore(state)
        self.rollout, self._updates = state["rollout"], state["updates"]
        self._parts = [[from_json(row) for row in part] for part in state["parts"]]
        if self._config.kl_target is not None:
            self._learning.beta = state["kl_beta"]
        self._kept.again()
        self._ledger.again()
        if self._ahead is None:
            return
        self._ahead.clear()
        for row in state["ahead"]:
            begun, ended = Begun(row["rollout"], tuple(row["draws"]), row["updates"]), row["ended"]
            prompts = [self._draws.prompt(number) for number in begun.draws]
            self._ahead.add(begun, ended and (judged_from_json(ended, prompts), ended["updates"]))

    def close(self) -> None:
        """Before the generator is closed. A run that the clock ends may leave roll-outs that nobody learns from."""
        if self._ahead is None:
            return
        if open_ := self._ahead.pending():
            draws = [number for begun, _ in open_ for number in begun.draws]
            log.info("%d roll-outs begun ahead are open: draws %d to %d", len(open_), min(draws), max(draws))
        self._ahead.close()

    def _roll_out(self) -> list[list[Sample]]:
        if self._ahead is None:
            self._generator.take(self._decoder)
            groups, alike = self._groups()
        else:
            self._publish(self._ahead)
            groups, alike = self._overlapped(self._ahead)
        config = self._config
        per_part = config.prompts_per_step // config.updates_per_rollout
        parts = [groups[start : start + per_part] for start in range(0, len(groups), per_part)]
        found = self._learning.samples(parts)
        self._metrics |= found.metrics | self._about(groups, alike)
        self._kept.keep(self.rollout, [_readable(*group) for group in groups[: config.samples_kept]])
        self.rollout += 1
        return found.parts

    def _groups(self) -> tuple[list[Group], float]:
        """Judged answers in the order they were drawn, and the share of groups whose rewards were all alike.

        DAPO replaces those by others, as often as it may. Raises HanokError: not one answer could be judged.
        """
        wanted, dapo = self._config.prompts_per_step, self._method == "dapo"
        drawn = self._drawn(wanted)
        useful = [group for group in drawn if _differ(group[2])]
        for _ in range(self._config.dynamic_sampling if dapo else 0):
            if len(useful) == wanted:
                break
            more = self._drawn(wanted - len(useful))
            drawn += more
            useful += [group for group in more if _differ(group[2])]
        groups = useful if dapo and useful else drawn[:wanted]
        return groups, self._alike(drawn, len(useful))

    def _drawn(self, count: int) -> list[Group]:
        """Answers to the next prompts, with their rewards."""
        draws = self._draws.next(count, rollout=self.rollout)
        return self._taken(draws, self._answers(draws))

    def _taken(self, draws: Sequence[int], judged: Judged) -> list[Group]:
        for name, value in judged.metrics.items():
            self._metrics.setdefault(name, value)
        self._outcomes = judged.outcomes
        if self._method == "scalerl":
            for number, (_, _, rewards) in zip(draws, judged.groups, strict=True):
                self._draws.remember(number, rewards)
        return judged.groups

    def _answers(self, draws: Sequence[int]) -> Judged:
        return self._judging.answers([self._draws.prompt(number) for number in draws], draws)

    def _alike(self, drawn: Sequence[Group], useful: int) -> float:
        """Share of groups that teach nothing; said where it is all of them. Raises HanokError."""
        if all(np.isnan(reward) for _, _, rewards in drawn for reward in rewards):
            raise HanokError(
                f"roll-out {self.rollout}: none of the answers to {len(drawn)} prompts could be judged ({self._outcomes})",
                remedy="mend the reward; docs/guides/align.md says what it may return",
            )
        if not useful and self._method != "ppo":
            log.warning("roll-out %d: in none of %d groups do the rewards differ", self.rollout, len(drawn))
        return 1 - useful / len(drawn)

    # Overlapped

    def _publish(self, ahead: Ahead) -> None:
        """The learner's weights, between two of the engine's steps: answers under way go on with them."""
        self._generator.take(self._decoder)
        ahead.updates = self._updates

    def _overlapped(self, ahead: Ahead) -> tuple[list[Group], float]:
        """The oldest of the roll-outs under way, after as many have been begun as may be."""
        config = self._config
        last = None if config.max_steps is None else -(-config.max_steps // config.updates_per_rollout)
        while len(ahead) <= config.overlap and (last is None or self.rollout + len(ahead) < last):
            rollout = self.rollout + len(ahead)
            ahead.add(Begun(rollout, tuple(self._draws.next(config.prompts_per_step, rollout=rollout))))
        ahead.begin()
        taken, idle = ahead.take()
        begun = taken.begun
        assert begun.rollout == self.rollout
        assert begun.updates is not None
        groups = self._taken(begun.draws, taken.judged)
        self._metrics |= {
            "rollout.staleness": float(self._updates - begun.updates),
            "rollout.staleness_end": float(self._updates - taken.ended),
            "time.learner_idle": round(idle.learner, 4), "time.generator_idle": round(idle.generator, 4),
        }  # fmt: skip
        rows = [
            {
                "step": self._updates + 1,
                "begun": begun.updates,
                "ended": taken.ended,
                "draws": list(begun.draws),
            }
        ]
        self._ledger.keep(self.rollout, rows)
        return groups, self._alike(groups, sum(_differ(rewards) for _, _, rewards in groups))

    def _about(self, groups: Sequence[Group], alike: float) -> dict[str, float]:
        answers = [answer for _, group, _ in groups for answer in group]
        return {
            **({} if self._method == "ppo" else {"rollout.zero_variance": alike}),  # PPO compares no answers
            "rollout.tokens": sum(len(answer.ids) for answer in answers) / len(answers),
            "rollout.truncated": sum(answer.truncated for answer in answers) / len(answers),
            "rollout.prompts_drawn": float(self.drawn),
            **({"rollout.retired": self._draws.retired_share} if self._method == "scalerl" else {}),
            **_about_chunks(groups),
        }


def validate(
    generator: Generator, prompts: Sequence[Prompt], rewards: Mix, decoder: Decoder
) -> dict[str, float]:
    """Rewards and length of answers to prompts that are not practised on."""
    generator.take(decoder)
    groups = generator.validate(prompts)
    rows = rows_of(prompts, groups)
    found = {f"validation.{name}": value for name, value in score(rewards, rows).metrics().items()}
    found["validation.tokens"] = sum(len(answer.ids) for group in groups for answer in group) / len(rows)
    return found


def _readable(prompt: Prompt, answers: Sequence[Any], rewards: Sequence[float]) -> dict[str, Any]:
    return {
        "prompt": prompt.name, "messages": list(prompt.messages), "answers": [answer.text for answer in answers],
        "rewards": [None if np.isnan(reward) else reward for reward in rewards],
    }  # fmt: skip


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
