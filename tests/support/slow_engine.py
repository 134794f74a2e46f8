"""An engine that takes its time, so that something can happen while it answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from hanok.engine.generator import LocalEngine


def slow_down(engine: LocalEngine, seconds: float) -> Callable[[], None]:
    """Each token takes so much longer, until what is returned is called."""
    scheduler = engine._scheduler
    step, strides = scheduler.step, getattr(scheduler, "_strides", None)

    def slowly() -> None:
        time.sleep(seconds)
        step()

    def again() -> None:
        scheduler.step = step  # type: ignore[method-assign]
        if strides is not None:
            scheduler._strides = strides  # type: ignore[union-attr]

    scheduler.step = slowly  # type: ignore[method-assign]
    if strides is not None:
        scheduler._strides = None  # type: ignore[union-attr]
    return again
