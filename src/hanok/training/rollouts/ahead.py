"""Roll-outs under way while the learner learns (PipelineRL, arXiv 2509.19128): at most `depth` of them ahead of it.

Each is one task of a thread: its requests join those that the engine runs already, and its rewards are given there. They are
taken in the order in which they were begun, so no answer is preferred for being short.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from hanok.training.rollouts.judging import Judged


@dataclass(frozen=True, slots=True)
class Begun:
    """A roll-out by its draws.

    Args:
        updates: of the weights with which its first answers were begun; None: not begun yet.
    """

    rollout: int
    draws: tuple[int, ...]
    updates: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """Args: ended: updates of the weights with which its last answer was ended."""

    begun: Begun
    judged: Judged
    ended: int


@dataclass(frozen=True, slots=True)
class Idle:
    """Shares of the time since the roll-out before was taken."""

    learner: float
    generator: float


class Ahead:
    """Args: work: from the numbers of draws to judged answers; called in threads, several at a time."""

    def __init__(self, work: Callable[[Sequence[int]], Judged], *, depth: int) -> None:
        self._work, self._pool = work, ThreadPoolExecutor(depth + 1, thread_name_prefix="hanok-rollout")
        self._queue: deque[tuple[Begun, Future[tuple[Judged, int]] | None]] = deque()
        self._lock, self._running = threading.Lock(), 0
        self.updates = 0
        """Of the weights that the generator has."""
        self._busy_since = self._busy = 0.0
        self._last = time.monotonic()
        self._busy_at_last = 0.0

    def add(self, begun: Begun, ended: tuple[Judged, int] | None = None) -> None:
        """Behind the others; `begin` begins it, unless it is through already: `ended` are its answers, and `Taken.ended`."""
        through: Future[tuple[Judged, int]] | None = None
        if ended is not None:
            through = Future()
            through.set_result(ended)
        self._queue.append((begun, through))

    def begin(self) -> None:
        """Whatever was added and is not under way."""
        for place, (begun, future) in enumerate(self._queue):
            if future is None:
                started = replace(begun, updates=self.updates)
                self._queue[place] = (started, self._pool.submit(self._timed, begun.draws))

    def take(self) -> tuple[Taken, Idle]:
        """The oldest, when it is through. Raises what its work raised."""
        begun, future = self._queue[0]
        assert future is not None, "not begun"
        waits_since = time.monotonic()
        judged, ended = future.result()
        now = time.monotonic()
        self._queue.popleft()
        with self._lock:
            busy = self._busy + (now - self._busy_since if self._running else 0.0)
        passed = max(now - self._last, 1e-9)
        idle = Idle((now - waits_since) / passed, max(0.0, 1 - (busy - self._busy_at_last) / passed))
        self._last, self._busy_at_last = now, busy
        return Taken(begun, judged, ended), idle

    def pending(self) -> list[tuple[Begun, tuple[Judged, int] | None]]:
        """Those that were not taken, oldest first, as `add` takes them."""
        return [
            (begun, future.result() if future is not None and _is_through(future) else None)
            for begun, future in self._queue
        ]

    def clear(self) -> None:
        """Forget all; what is under way runs on unheard."""
        for _, future in self._queue:
            if future is not None:
                future.cancel()
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        """Without waiting: the generator, closed next, ends what is under way."""
        self.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, draws: Sequence[int]) -> tuple[Judged, int]:
        with self._lock:
            if not self._running:
                self._busy_since = time.monotonic()
            self._running += 1
        try:
            return self._work(draws), self.updates
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._busy += time.monotonic() - self._busy_since


def _is_through(future: Future[tuple[Judged, int]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
