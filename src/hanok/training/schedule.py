"""Warm-up, stable, decay (WSD), over a run whose length may be set by the clock.

The factor on the learning rate is a pure function of (step, plan). A plan made from time is measured in the first
steps and corrected at ever closer steps until the decay begins, and written down each time: a resumed run reads it
and never measures the same step again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

_LATE = 0.6  # of the time that was left: a little more than what the next check is set for


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Learning-rate factor of each step (counted from 0).

    Args:
        total_steps: None while the length is not known yet (a budget in minutes, first steps).
        decay_start: the first step of the decay; `total_steps` if there is none.
        next_check: the step before which a length set by the clock is measured again; None if it stands.
        checked_step, checked_seconds: where it was measured last.
    """

    warmup_steps: int
    final_lr: float
    total_steps: int | None = None
    decay_start: int | None = None
    next_check: int | None = None
    checked_step: int = 0
    checked_seconds: float = 0.0
    first_length: int = 0
    """`total_steps` as first set: intervals are parts of it, so that a correction does not move them."""

    def factor(self, step: int) -> float:
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.total_steps is None or self.decay_start is None or step < self.decay_start:
            return warm
        left = (self.total_steps - step) / (self.total_steps - self.decay_start + 1)
        return min(warm, self.final_lr + (1 - self.final_lr) * max(0.0, left))

    def finished(self, step: int) -> bool:
        return self.total_steps is not None and step >= self.total_steps

    def of_length(self, total_steps: int, *, decay_fraction: float) -> Schedule:
        """The plan once the length is known."""
        total_steps = max(1, total_steps)
        return replace(
            self,
            total_steps=total_steps,
            first_length=total_steps,
            decay_start=total_steps - round(decay_fraction * total_steps),
        )

    def from_clock(self, step: int, total_steps: int, *, decay_fraction: float) -> Schedule:
        """The plan when the rate says, before `step`, that the time will be up after `total_steps`."""
        total_steps = max(total_steps, step + 1)
        if self.total_steps is not None and self.decay_start is not None and step > self.decay_start:
            # decaying already: go on from the present factor to the new end
            left = (self.total_steps - step) / (self.total_steps - self.decay_start + 1)
            decay_start = min(step, total_steps + 1 - round((total_steps - step) / left))
            wait = _halfway(step, total_steps)
        else:
            decay_start = max(step, total_steps - round(decay_fraction * total_steps))
            wait = (decay_start - step + 1) // 2 or _halfway(step, total_steps)
        return replace(
            self,
            total_steps=total_steps,
            first_length=self.first_length or total_steps,
            decay_start=decay_start,
            next_check=step + wait if wait else None,
        )

    def due(self, step: int, seconds: float, *, budget: float) -> bool:
        """Whether the length is to be measured again: at the step that was set, or when more than half of the time that was left
        then has gone, since a rate may fall so far that the time is up before that step."""
        if self.next_check is None or step <= self.checked_step:
            return False
        return step >= self.next_check or seconds - self.checked_seconds > _LATE * (
            budget - self.checked_seconds
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _halfway(step: int, end: int) -> int:
    """Steps to the next measurement within the decay; 0 when the end is too near for one to matter."""
    return (end - step) // 2 if end - step >= 16 else 0
