"""A `Watcher`: an entry for each HTTP request, appended without waiting.

What tells nothing is left out: probes, the page's own files, looking who one is. Requests of nobody known are counted beyond
`NOBODYS` in ten seconds, so that who has no key cannot fill the disk.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from hanok.server.auditing.trail import Trail
from hanok.server.exchange import Exchange, Outcome
from hanok.server.operations.requests import HttpRequest

NOBODYS, WINDOW = 100, 10.0
MOST_CALLS = 50  # of tools, in one entry
_TOOL = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/session", "/admin/status", "/v1/models", "page"})
_PASSIVE = ("GET", "HEAD", "OPTIONS")


class RequestTrail:
    """Args: clock: monotonic."""

    def __init__(self, trail: Trail, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._trail, self._clock = trail, clock
        self._began, self._seen = clock(), 0

    def finished(self, request: HttpRequest) -> None:
        quiet = request.route in _QUIET and request.method in _PASSIVE
        if quiet and request.status < 400:
            return
        who = request.principal
        if (who is None or who.kind == "nobody") and not self._room():
            return
        captured = request.captured
        self._trail.tell(
            "request", of=request, target=request.work[0][0].id if request.work else "", facts=_facts(request),
            content=None if captured is None else captured.content(),
        )  # fmt: skip

    def close(self) -> None:
        """What was only counted becomes an entry."""
        self._end_window()

    def _room(self) -> bool:
        if self._clock() - self._began >= WINDOW:
            self._end_window()
        self._seen += 1
        return self._seen <= NOBODYS

    def _end_window(self) -> None:
        if self._seen > NOBODYS:
            self._trail.tell("request.counted", actor="", facts={"count": self._seen - NOBODYS})
        self._began, self._seen = self._clock(), 0


def _facts(request: HttpRequest) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "method": request.method, "route": request.route, "status": request.status or 499,
        "ms": round(1000 * request.seconds, 1), "kind": request.principal.kind if request.principal else "nobody",
    }  # fmt: skip
    if request.failure:
        facts["failure"] = request.failure
    if request.work:
        facts["work"] = [_work(exchange, outcome) for exchange, outcome in request.work]
    if request.calls:
        facts["calls"] = [{**call, "tool": _name(call["tool"])} for call in request.calls[:MOST_CALLS]]
        facts["calls_left_out"] = max(0, len(request.calls) - MOST_CALLS)
    return facts


def _name(tool: str) -> str:
    """Whatever a model wrote there: a tool's name if it looks like one."""
    return tool if _TOOL.fullmatch(tool) else "?"


def _work(exchange: Exchange, outcome: Outcome) -> dict[str, Any]:
    first = outcome.first_token_seconds
    return {
        "model": exchange.model, "hash": exchange.model_hash, "streamed": exchange.streamed, "finish": outcome.reason,
        "prompt_tokens": exchange.prompt_tokens, "cached_tokens": outcome.cached_tokens,
        "completion_tokens": outcome.completion_tokens, "ms": round(1000 * outcome.seconds, 1),
        "first_token_ms": None if first is None else round(1000 * first, 1),
        "labelled": True, **({"watermark": exchange.watermark} if exchange.watermark else {}),
    }  # fmt: skip
