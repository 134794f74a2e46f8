"""What is known of one HTTP request beside what its route does: an id, who asked, what work for a model it led to.

The id is the client's own `x-request-id` where that is harmless, else made here; the answer carries it, and so do log lines,
traces and the list of recent errors.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanok.server.auditing.capture import Captured
from hanok.server.exchange import Exchange, Outcome
from hanok.server.operations.lifecycle import Lifecycle
from hanok.server.principal import Principal

_HARMLESS = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PASSIVE = frozenset({"GET", "HEAD", "OPTIONS"})
CURRENT: ContextVar[HttpRequest | None] = ContextVar("hanok_request", default=None)


@dataclass(slots=True)
class HttpRequest:
    """Args:
    traceparent: W3C's header as it came; "" if it did not. status: 0 until the answer begins.
    route: the path with its parameters unfilled, so that there are only so many; "other" for paths that nobody serves.
    work: exchanges of this request with their outcomes, as they end. failure: the class of the exception that ended it.
    calls: of tools that its answers made: which, and whether a person is to be asked; never what with.
    come_back: the answer said when to try again. captured: bodies, where the audit keeps them.
    """

    id: str
    method: str
    path: str
    traceparent: str
    started: float = field(default_factory=time.monotonic)
    status: int = 0
    route: str = "other"
    principal: Principal | None = None
    work: list[tuple[Exchange, Outcome]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    come_back: bool = False
    captured: Captured | None = None
    over: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Watcher(Protocol):
    """Told of each HTTP request when it is over, on the event loop: must not block."""

    def finished(self, request: HttpRequest) -> None: ...


class Follow:
    """ASGI middleware, the outermost: gives each request its id, refuses new work while the server does not take any, counts what
    is under way, tells the watchers.

    Args:
        refuse: the answer to new work while there is none to be had.
    """

    def __init__(
        self, app: ASGIApp, lifecycle: Lifecycle, watchers: Sequence[Watcher], refuse: Callable[[Lifecycle], ASGIApp]
    ) -> None:  # fmt: skip
        self._app, self._lifecycle, self._watchers, self._refuse = app, lifecycle, watchers, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _request_of(scope)
        scope["hanok.request"] = request

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request.id.encode())]
                request.status, message["headers"] = message["status"], headers
                request.come_back = any(name.lower() == b"retry-after" for name, _ in headers)
            await send(message)

        work = request.method not in _PASSIVE
        app = self._app if not work or self._lifecycle.state == "ready" else self._refuse(self._lifecycle)
        token = CURRENT.set(request)
        self._lifecycle.active += work
        try:
            await app(scope, receive, send_with_id)
        except BaseException as error:
            request.failure = request.failure or type(error).__name__
            raise
        finally:
            self._lifecycle.active -= work
            CURRENT.reset(token)
            request.over = True
            request.route = _route_of(scope)
            request.principal = request.principal or scope.get("hanok.principal")
            for watcher in self._watchers:
                watcher.finished(request)


class Attach:
    """An `Observer`: ties each exchange to the HTTP request that it belongs to."""

    def begun(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange, outcome: Outcome) -> None:
        request = CURRENT.get()
        if request is not None:
            request.work.append((exchange, outcome))


def _request_of(scope: Scope) -> HttpRequest:
    headers = dict(scope["headers"])
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return HttpRequest(
        id=given if given and _HARMLESS.fullmatch(given) else secrets.token_hex(16),
        method=scope["method"], path=scope["path"],
        traceparent=headers.get(b"traceparent", b"").decode("latin-1"),
    )  # fmt: skip


def _route_of(scope: Scope) -> str:
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    if path is None:
        return "page" if "endpoint" in scope else "other"
    return path or "page"
