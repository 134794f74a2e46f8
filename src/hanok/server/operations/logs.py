"""Log lines on standard error: for people, or a JSON object each. Never with a word of what was asked or answered."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from typing import Any, Literal

from hanok.guard.verdicts import VerdictEvent
from hanok.reporting import log
from hanok.server.operations.requests import CURRENT, HttpRequest

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
_QUIET = frozenset({"/healthz", "/readyz", "/health", "/metrics", "/admin/status", "page"})
access = logging.getLogger("hanok.access")
verdicts = logging.getLogger("hanok.guard")


def install_logging(form: Format, level: Level) -> None:
    """For the whole process. Other packages' loggers speak from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    set_level(level)


def set_level(level: Level) -> None:
    log.setLevel(level.upper())


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger`, `message`, the request's id, and what a line carries in `extra={"facts": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        request = CURRENT.get()
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(),
            **({} if request is None else {"request_id": request.id}), **getattr(record, "facts", {}),
        }  # fmt: skip
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class AccessLog:
    """A `Watcher`: a line for each request; those of probes, dashboards and the page's files at level debug."""

    def finished(self, request: HttpRequest) -> None:
        quiet = request.route in _QUIET and request.status < 400
        level = logging.DEBUG if quiet else logging.INFO
        if not access.isEnabledFor(level):
            return
        facts = facts_of(request)
        words = [request.method, facts["route"], str(request.status), f"{1e3 * request.seconds:.0f} ms"]
        for work in facts.get("work", ()):
            tokens = f"{work['prompt_tokens']}+{work['completion_tokens']} tokens"
            words += [work["model"], tokens, work["reason"]]
        access.log(level, "%s", " ".join([*words, request.id]), extra={"facts": facts})


def log_verdict(event: VerdictEvent) -> None:
    """A line for what the guard found: what it is and how often, where and by which rule, never what it said."""
    facts = {**dataclasses.asdict(event), "exchange": event.request_id}
    del facts["request_id"]  # of a line it is that of the HTTP request
    words = (
        event.action,
        event.rule,
        event.direction,
        event.where,
        event.reason,
        event.count,
        event.request_id,
    )
    verdicts.info("%s by %s: %s %s: %s, %d times (%s)", *words, extra={"facts": facts})


def facts_of(request: HttpRequest) -> dict[str, Any]:
    """What may be written down of a request."""
    facts: dict[str, Any] = {
        "request_id": request.id, "method": request.method, "route": request.route, "status": request.status,
        "seconds": round(request.seconds, 6),
    }  # fmt: skip
    if request.principal is not None:
        facts |= {"principal": request.principal.id, "tenant": request.principal.tenant}
    if request.failure:
        facts["failure"] = request.failure
    if request.work:
        facts["work"] = [
            {
                "id": exchange.id, "model": exchange.model, "prompt_tokens": exchange.prompt_tokens,
                "cached_tokens": outcome.cached_tokens, "completion_tokens": outcome.completion_tokens,
                "reason": outcome.reason, "first_token_seconds": outcome.first_token_seconds,
            }
            for exchange, outcome in request.work
        ]  # fmt: skip
    return facts
