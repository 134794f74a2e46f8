"""What a dashboard shows: rates, latencies and a quarter of an hour in five-second steps; of this process alone.

Numbers are kept in rings of fixed length; `report` does the arithmetic when somebody asks.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanok.server.exchange import Exchange, Outcome
from hanok.server.operations.requests import HttpRequest

STEP_SECONDS = 5
STEPS = 180
WINDOWS: Mapping[str, int] = {"now": 1, "1m": 12, "5m": 60}  # steps
_ERRORS = 50
_LATENCIES = 8192
_SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens")
_TOTALS = (*_SUMS[:2], "cancelled", "refused", "prompt_tokens", "cached_tokens", "completion_tokens")
_MEASURES = ("first_token", "per_token", "total", "queue")


@dataclass(slots=True)
class Step:
    """Sums of five seconds, and the state at their end."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SUMS, 0))
    running: int = 0
    waiting: int = 0
    cache_used_share: float | None = None
    first_token: list[float] = field(default_factory=list)


class Status:
    """An `Observer` of exchanges and a `Watcher` of HTTP requests; `tick` is called every second."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._open = Step()
        self._step_ends = self._began + STEP_SECONDS
        self._totals: dict[str, float] = dict.fromkeys(_TOTALS, 0)
        self._latencies: dict[str, deque[tuple[float, float]]] = {
            name: deque(maxlen=_LATENCIES) for name in _MEASURES
        }
        self._errors: deque[dict[str, Any]] = deque(maxlen=_ERRORS)

    def begun(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange, outcome: Outcome) -> None:
        self._count("requests", 1)
        self._count("prompt_tokens", exchange.prompt_tokens)
        self._count("completion_tokens", outcome.completion_tokens)
        self._totals["cached_tokens"] += outcome.cached_tokens
        if outcome.reason == "cancelled":
            self._totals["cancelled"] += 1
        now, first = self._clock(), outcome.first_token_seconds
        if first is not None:
            self._latencies["first_token"].append((now, first))
            self._open.first_token.append(first)
            if outcome.completion_tokens > 1:
                each = (outcome.seconds - first) / (outcome.completion_tokens - 1)
                self._latencies["per_token"].append((now, each))
        self._latencies["total"].append((now, outcome.seconds))

    def finished(self, request: HttpRequest) -> None:
        failed = any(outcome.reason == "error" for _, outcome in request.work)
        if request.status in (403, 413, 429) or request.come_back:
            self._totals["refused"] += 1
        elif request.status >= 500 or failed:
            self.error(
                request.failure or str(request.status), request_id=request.id, route=request.route, status=request.status,
                model=request.work[0][0].model if request.work else None,
            )  # fmt: skip

    def error(self, what: str, **facts: Any) -> None:
        """A fault of the server's own. No content in `facts`."""
        self._count("errors", 1)
        self._errors.appendleft({"time": time.time(), **facts, "what": what})

    def waited(self, seconds: Iterable[float]) -> None:
        """Of requests that got a place."""
        now = self._clock()
        self._latencies["queue"].extend((now, one) for one in seconds)

    def tick(self, *, running: int, waiting: int, cache_used_share: float | None) -> None:
        now = self._clock()
        while now >= self._step_ends:
            step, self._open = self._open, Step()
            step.running, step.waiting, step.cache_used_share = running, waiting, cache_used_share
            self._steps.append(step)
            self._step_ends += STEP_SECONDS

    def report(self) -> dict[str, Any]:
        """`totals`, `rates`, `latency`, `series` and `errors` of docs/guides/operations.md."""
        steps, now = list(self._steps), self._clock()
        rates = {
            name: {key: _sum(steps[-count:], key) / (max(1, min(count, len(steps))) * STEP_SECONDS) for key in _SUMS}
            for name, count in WINDOWS.items()
        }  # fmt: skip
        latency = {
            name: {
                measure: quantiles([value for when, value in kept if now - when <= WINDOWS[name] * STEP_SECONDS])
                for measure, kept in self._latencies.items()
            }
            for name in ("1m", "5m")
        }  # fmt: skip
        series: dict[str, Any] = {key: [step.sums[key] for step in steps] for key in _SUMS}
        for key in ("running", "waiting", "cache_used_share"):
            series[key] = [getattr(step, key) for step in steps]
        for share in ("p50", "p95"):
            series[f"first_token_{share}"] = [quantiles(step.first_token)[share] for step in steps]
        return {
            "uptime_seconds": now - self._began, "totals": dict(self._totals), "rates": rates, "latency": latency,
            "series": {"step_seconds": STEP_SECONDS, "end": time.time() - (now - self._step_ends + STEP_SECONDS), **series},
            "errors": list(self._errors),
        }  # fmt: skip

    def _count(self, key: str, number: float) -> None:
        self._totals[key] += number
        self._open.sums[key] += number


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return {
        f"p{share}": ordered[math.ceil(share / 100 * len(ordered)) - 1] if ordered else None
        for share in (50, 95, 99)
    }


def _sum(steps: Sequence[Step], key: str) -> float:
    return sum(step.sums[key] for step in steps)
