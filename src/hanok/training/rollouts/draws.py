"""Which prompts are drawn, and under which numbers: from the seed and a cursor; scalerl passes over what is mastered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanok.reporting import log
from hanok.training.align.config import AlignConfig
from hanok.training.permutation import Permutation
from hanok.training.rollouts.prompts import Prompt


class Draws:
    """Args: prompts: all of them; each epoch goes through them in another order."""

    def __init__(self, prompts: Sequence[Prompt], config: AlignConfig) -> None:
        self._prompts, self._config = prompts, config
        self.drawn = 0
        self._passed: dict[int, tuple[int, int]] = {}  # place of a prompt -> right answers, and all of them

    def prompt(self, number: int) -> Prompt:
        return self._prompts[self._place(number)]

    def next(self, count: int, *, rollout: int) -> list[int]:
        """Numbers of the next draws, of which no two are the same in a run."""
        if len(self._prompts) - len(self._retired()) < min(count, len(self._prompts)):
            log.warning("roll-out %d: too few prompts are left that are not mastered; all come back", rollout)
            self._passed = {}
        retired, draws = self._retired(), list[int]()
        while len(draws) < count:
            if self._place(self.drawn) not in retired:
                draws.append(self.drawn)
            self.drawn += 1
        return draws

    def remember(self, number: int, rewards: Sequence[float]) -> None:
        """Right answers to the prompt of a draw; one that could not be judged (NaN) does not count."""
        known = [reward for reward in rewards if not np.isnan(reward)]
        right, all_ = self._passed.get(self._place(number), (0, 0))
        right += sum(reward >= self._config.pass_reward for reward in known)
        if known:
            self._passed[self._place(number)] = (right, all_ + len(known))

    @property
    def retired_share(self) -> float:
        return len(self._retired()) / len(self._prompts)

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "passed": [[place, *counts] for place, counts in self._passed.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.drawn = state["drawn"]
        self._passed = {place: (right, all_) for place, right, all_ in state["passed"]}

    def _retired(self) -> set[int]:
        least = self._config.retire
        return {place for place, (right, all_) in self._passed.items() if right >= least * all_}

    def _place(self, number: int) -> int:
        epoch, offset = divmod(number, len(self._prompts))
        order = Permutation(len(self._prompts), f"prompts/{self._config.seed}/{epoch}")
        return int(order(np.array([offset]))[0])
