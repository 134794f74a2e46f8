"""Which rows come next: a pure function of (seed, cursor), like the sampler of next-token training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

import numpy as np

from hanok.training.objective import E
from hanok.training.permutation import Permutation


class Rows(Generic[E]):
    """Steps of `per_step` rows, in a new order each epoch; the last step of the last epoch may be smaller.

    Args:
        epochs: None is endless. name: of the order, which depends on it beside the seed.
    """

    def __init__(
        self, rows: Sequence[E], *, per_step: int, epochs: float | None, seed: int, name: str = "rows"
    ) -> None:
        self._rows, self._per_step, self._order = rows, per_step, f"{name}/{seed}"
        self._limit = None if epochs is None else max(1, round(epochs * len(rows)))
        self.drawn = 0

    def count(self, *, max_steps: int | None, max_tokens: int | None) -> tuple[int, int | None] | None:
        assert max_tokens is None, "alignment has no budget in tokens"
        if self._limit is None:
            return None if max_steps is None else (max_steps, None)
        steps = -(-self._limit // self._per_step)
        return min(steps, max_steps or steps), None

    def draw_step(self) -> list[E]:
        end = self.drawn + self._per_step
        if self._limit is not None:
            end = min(end, self._limit)
        chosen = [self._rows[self._place(number)] for number in range(self.drawn, end)]
        self.drawn = end
        return chosen

    def metrics(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.drawn = state["drawn"]

    def _place(self, number: int) -> int:
        epoch, offset = divmod(number, len(self._rows))
        order = Permutation(len(self._rows), f"{self._order}/{epoch}")
        return int(order(np.array([offset]))[0])
