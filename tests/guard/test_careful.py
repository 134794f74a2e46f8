"""The processor time that a rule is charged with is its own."""

from __future__ import annotations

import gc
import time
from typing import Any

from hanok.guard.careful import Careful, Clock


class Ring:
    def __init__(self) -> None:
        self.me = self


def collect(_clock: Clock) -> None:
    """Collections that take at least 80 ms of processor time."""
    end = time.thread_time() + 0.08
    kept: list[Any] = [Ring() for _ in range(50_000)]
    while time.thread_time() < end:
        gc.collect()
    assert kept


def work(_clock: Clock) -> int:
    end = time.thread_time() + 0.08
    while time.thread_time() < end:
        pass
    return 1


def test_garbage_is_nobodys_fault() -> None:
    clock, begun = Clock(1.0), time.thread_time()
    collect(clock)
    assert clock.spent < 0.75 * (time.thread_time() - begun)  # the rings are its own


def test_its_own_work_is() -> None:
    care = Careful("rule", budget=0.01)
    assert care.run(work) is None
    assert "budget" in (care.failure or "")
