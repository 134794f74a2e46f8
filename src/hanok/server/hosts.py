"""Who may talk to a server that listens on this machine only.

A web page elsewhere can make a browser send requests here, and after DNS rebinding even read the answers. Such
requests carry a foreign Host or Origin header, so both are checked.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanok.errors import ConfigError
from hanok.server.errors import error_response

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class LoopbackOnly:
    """ASGI middleware: 403 unless Host is a loopback name and Origin, where there is one, is this server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            problem = refusal(headers.get(b"host", ""), headers.get(b"origin"))
            if problem is not None:
                await error_response(403, problem, code="forbidden_host")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SafeHeaders:
    """ASGI middleware: the page runs its own files alone, in no frame, and is asked for anew after an upgrade."""

    HEADERS = (
        (
            "Content-Security-Policy",
            "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
        ),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def check_host(host: str) -> None:
    """Raises ConfigError unless it is a loopback address."""
    if host not in LOOPBACK:
        raise ConfigError(
            f'host = "{host}": this server has no keys yet, so it listens on this machine only',
            remedy="use 127.0.0.1, and an SSH tunnel to reach it from elsewhere",
        )


def refusal(host: str, origin: str | None) -> str | None:
    """Why a request with these headers is refused; None if it is not."""
    if _hostname(f"//{host}") not in LOOPBACK:
        return f'Host "{host}" is not this machine: open the server as http://127.0.0.1'
    if origin is None:
        return None
    if _hostname(origin) not in LOOPBACK or urlsplit(origin).netloc.lower() != host.lower():
        return f'requests from pages of "{origin}" are not allowed'
    return None


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
