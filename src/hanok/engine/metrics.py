"""What an engine has done and what it holds, in numbers that only the engine's own thread writes."""

from __future__ import annotations

import time
from dataclasses import dataclass


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
class Counters:
    """The sums of `EngineMetrics`, while they grow."""

    prefilled_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    model_seconds: float = 0.0
    step_seconds: float = 0.0

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
