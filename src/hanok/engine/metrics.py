"""What an engine has done and what it holds, in numbers that only the engine's own thread writes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hanok.engine.blocks import BlockPool
    from hanok.engine.paged import PagedScheduler
    from hanok.engine.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMetrics:
    """One moment. Tokens, steps, preemptions and seconds are sums since the engine was made.

    Args:
        requests_running: that have a place in the model's batch. requests_waiting: for one.
        prefilled_tokens: read by the model, prompts and what a preemption made it read again.
        generated_tokens: chosen, ends among them. cached_tokens: of prompts, found in the cache instead of read.
        drafted_tokens: guesses that a step tried, from whatever source. accepted_tokens: of them, those that held.
        blocks_held: of the cache, by running requests. blocks_idle: keep a past for prompts that begin alike, until
            room is needed. blocks_free: hold nothing. blocks_peak: most held at one time. All 0 where the cache has no blocks.
        model_seconds: in the model's steps. scheduler_seconds: in all else that a step does.
        asleep: the weights are put away (`LocalEngine.sleep`).
    """

    requests_running: int
    requests_waiting: int
    prefilled_tokens: int
    generated_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    blocks_held: int
    blocks_idle: int
    blocks_free: int
    blocks_peak: int
    steps: int
    model_seconds: float
    scheduler_seconds: float
    asleep: bool


@dataclass(slots=True)
class Pulse:
    """Whether the engine is well.

    Args:
        since: when the step under way began, in seconds of `time.perf_counter`; None between steps.
        failures: steps that failed one after another, up to the last.
        died: times that its thread ended by an error. broken: why it takes no more requests, if it does not.
    """

    since: float | None = None
    failures: int = 0
    died: int = 0
    broken: str | None = None


@dataclass(slots=True)
class Counters:
    """The sums of `EngineMetrics`, while they grow. `waits`: seconds that requests waited for a place, the newest."""

    prefilled_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    model_seconds: float = 0.0
    step_seconds: float = 0.0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=4096))

    def model(self) -> _Stopwatch:
        """Around what the model computes."""
        return _Stopwatch(self)


class _Stopwatch:
    """Written out, since a generator in its place costs a small model's step a percent."""

    __slots__ = ("_began", "_counters")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._counters.model_seconds += time.perf_counter() - self._began


_SUMS = frozenset(one.name for one in fields(EngineMetrics)) & frozenset(one.name for one in fields(Counters))


def measure(
    counters: Counters, scheduler: Scheduler | PagedScheduler | None, pool: BlockPool | None, *, inbox: int
) -> EngineMetrics:
    """Args: scheduler: None while the engine sleeps. inbox: requests that it has not seen yet."""
    return EngineMetrics(
        requests_running=0 if scheduler is None else scheduler.running,
        requests_waiting=inbox + (0 if scheduler is None else scheduler.waiting),
        blocks_held=0 if pool is None else pool.size - pool.free,
        blocks_idle=0 if pool is None else pool.idle,
        blocks_free=0 if pool is None else pool.free - pool.idle,
        blocks_peak=0 if pool is None else pool.most_held,
        scheduler_seconds=max(0.0, counters.step_seconds - counters.model_seconds),
        asleep=scheduler is None,
        **{name: getattr(counters, name) for name in _SUMS},
    )
