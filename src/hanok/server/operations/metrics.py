"""`/metrics` for Prometheus: what was asked and answered, and the state of engines and process at the moment of the scrape.

Labels are bounded: routes and finish reasons come from this program, models are those that are served; no tenant, key or text.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hanok.engine.metrics import EngineMetrics
from hanok.guard.verdicts import VerdictEvent
from hanok.server.exchange import Exchange, Outcome
from hanok.server.operations.lifecycle import Lifecycle
from hanok.server.operations.requests import HttpRequest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# seconds; a processor's answers: the first token within milliseconds of a cached prompt, or after a minute of reading
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 40, 80, 160)
_EACH = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2)
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
# field of EngineMetrics: name, help
_SUMS: Mapping[str, tuple[str, str]] = {
    "prefilled_tokens": ("hanok_engine_prefilled_tokens", "Prompt tokens that the model read"),
    "generated_tokens": ("hanok_engine_generated_tokens", "Tokens chosen"),
    "cached_tokens": ("hanok_engine_cached_tokens", "Prompt tokens found in the prefix cache"),
    "drafted_tokens": ("hanok_engine_drafted_tokens", "Guesses that a step tried"),
    "accepted_tokens": ("hanok_engine_accepted_tokens", "Guesses that held"),
    "preemptions": ("hanok_engine_preemptions", "Requests that gave their cache back to others"),
    "steps": ("hanok_engine_steps", "Steps"),
    "model_seconds": ("hanok_engine_model_seconds", "Seconds in the model's steps"),
    "scheduler_seconds": ("hanok_engine_scheduler_seconds", "Seconds in all else that a step does"),
}
_LEVELS: Mapping[str, tuple[str, str]] = {
    "requests_running": ("hanok_engine_requests_running", "Requests in the model's batch"),
    "requests_waiting": ("hanok_engine_requests_waiting", "Requests that wait for a place"),
    "blocks_held": ("hanok_cache_blocks_used", "Cache blocks of running requests"),
    "blocks_idle": ("hanok_cache_blocks_idle", "Cache blocks that keep a past until room is needed"),
    "blocks_free": ("hanok_cache_blocks_free", "Cache blocks that hold nothing"),
}


class Metrics:
    """An `Observer` of exchanges and a `Watcher` of HTTP requests.

    Args:
        engines: name to numbers, asked at each scrape.
    """

    def __init__(self, lifecycle: Lifecycle, engines: Callable[[], Mapping[str, EngineMetrics]]) -> None:
        self._registry = registry = CollectorRegistry()
        served = ("route", "model")
        self._requests = Counter(
            "hanok_requests", "Requests that a model worked on", (*served, "status", "reason"), registry=registry
        )  # fmt: skip
        self._http = Counter(
            "hanok_http_requests", "Answers", ("route", "method", "status"), registry=registry
        )
        self._tokens = Counter("hanok_tokens", "Tokens", ("model", "kind"), registry=registry)
        self._first = Histogram(
            "hanok_first_token_seconds", "To the first token", served, buckets=_FIRST, registry=registry
        )
        self._each = Histogram(
            "hanok_token_seconds", "Between tokens, mean of a request", served, buckets=_EACH, registry=registry
        )  # fmt: skip
        self._whole = Histogram(
            "hanok_request_seconds", "From a request's begin to its end", served, buckets=_WHOLE, registry=registry
        )  # fmt: skip
        self._queue = Histogram(
            "hanok_queue_seconds", "Waiting for a place", ("model",), buckets=_QUEUE, registry=registry
        )
        self._verdicts = Counter(
            "hanok_guard_verdicts",
            "Findings of the guard",
            ("rule", "action", "direction", "model"),
            registry=registry,
        )
        registry.register(_State(lifecycle, engines))  # pyright: ignore[reportArgumentType] - collect() is all it needs

    def add(self, collector: Any) -> None:
        """Args: collector: has `collect()`, called at each scrape."""
        self._registry.register(collector)

    def begun(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange, outcome: Outcome) -> None:
        served = (exchange.route, exchange.model)
        first, count = outcome.first_token_seconds, outcome.completion_tokens
        tokens = {"prompt": exchange.prompt_tokens, "cached": outcome.cached_tokens, "completion": count}
        for kind, number in tokens.items():
            self._tokens.labels(exchange.model, kind).inc(number)
        status = {"cancelled": "499", "error": "500"}.get(outcome.reason, "200")
        self._requests.labels(*served, status, outcome.reason).inc()
        self._whole.labels(*served).observe(outcome.seconds)
        if first is not None:
            self._first.labels(*served).observe(first)
            if count > 1:
                self._each.labels(*served).observe((outcome.seconds - first) / (count - 1))

    def finished(self, request: HttpRequest) -> None:
        method = request.method if request.method in ("GET", "POST", "PUT", "DELETE", "PATCH") else "other"
        self._http.labels(request.route, method, str(request.status or 499)).inc()

    def verdict(self, event: VerdictEvent) -> None:
        self._verdicts.labels(event.rule, event.action, event.direction, event.model).inc(event.count)

    def waited(self, model: str, seconds: Iterable[float]) -> None:
        for one in seconds:
            self._queue.labels(model).observe(one)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _State:
    """What is read anew at each scrape."""

    def __init__(self, lifecycle: Lifecycle, engines: Callable[[], Mapping[str, EngineMetrics]]) -> None:
        self._lifecycle, self._engines = lifecycle, engines

    def collect(self) -> Iterator[Metric]:
        engines = self._engines()
        for field, (name, text) in _SUMS.items():
            yield _family(CounterMetricFamily(name, text, labels=["model"]), engines, field)
        for field, (name, text) in _LEVELS.items():
            yield _family(GaugeMetricFamily(name, text, labels=["model"]), engines, field)
        yield GaugeMetricFamily("hanok_ready", "Takes work", value=self._lifecycle.state == "ready")
        yield GaugeMetricFamily("hanok_http_requests_active", "Work under way", value=self._lifecycle.active)
        facts = process_facts()
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory", value=facts["rss_bytes"] or 0)
        yield GaugeMetricFamily("process_open_fds", "File descriptors", value=facts["open_fds"] or 0)
        yield CounterMetricFamily("process_cpu_seconds", "Processor time", value=facts["cpu_seconds"])


def _family(
    family: CounterMetricFamily | GaugeMetricFamily, engines: Mapping[str, EngineMetrics], field: str
) -> Metric:
    for name, numbers in engines.items():
        family.add_metric([name], getattr(numbers, field))
    return family


def process_facts() -> dict[str, Any]:
    """Of this process; None for what this system does not tell."""
    facts: dict[str, Any] = {"rss_bytes": None, "open_fds": None, "threads": None}
    with contextlib.suppress(OSError):
        with open("/proc/self/statm") as file:
            facts["rss_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        facts["open_fds"] = len(os.listdir("/proc/self/fd"))
        facts["threads"] = len(os.listdir("/proc/self/task"))
    return {**facts, "cpu_seconds": time.process_time()}
