"""What happens when a step goes wrong: leave its update out, go back to the last checkpoint's weights, give up.

A step is bad if its loss or gradient norm is not finite, or its loss is a spike against the median of the last good
ones. After `max_skips` bad steps in a row the weights and the optimiser return to the last regular checkpoint while
steps, data and schedule go on, so the bad data are not met again and the log keeps one line a step. After
`max_rollbacks` of those the run stops.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, Literal

from hanok.training.config import TrainConfig

Verdict = Literal["good", "skip", "roll back", "stop"]


class BadStepPolicy:
    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._recent: list[float] = []
        self._skips = 0
        self._rollbacks = 0

    def judge(self, loss: float, grad_norm: float) -> tuple[Verdict, str]:
        """What to do with this step, and why (empty if good)."""
        why = self._fault(loss, grad_norm)
        if not why:
            self._skips = 0
            self._recent = [*self._recent, loss][-self._config.spike_window :]
            return "good", ""
        self._skips += 1
        if self._skips <= self._config.max_skips:
            return "skip", why
        self._skips = 0
        self._recent = []
        self._rollbacks += 1
        return ("roll back" if self._rollbacks <= self._config.max_rollbacks else "stop"), why

    def state(self) -> dict[str, Any]:
        return {"recent": self._recent, "skips": self._skips, "rollbacks": self._rollbacks}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._recent = list(state["recent"])
        self._skips, self._rollbacks = state["skips"], state["rollbacks"]

    def _fault(self, loss: float, grad_norm: float) -> str:
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"gradient norm is {grad_norm}"
        if self._config.spike_ratio and len(self._recent) >= self._config.spike_window // 2:
            usual = statistics.median(self._recent)
            if loss > self._config.spike_ratio * usual and loss > usual + 0.5:
                return f"loss {loss:.3f} is a spike against {usual:.3f}"
        return ""
