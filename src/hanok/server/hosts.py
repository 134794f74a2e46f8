"""Who may talk to a server without keys, and by what name to one with keys.

A web page elsewhere can make a browser send requests here, and after DNS rebinding even read the answers. Such
requests carry a foreign Host or Origin header, so both are checked.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanok.errors import ConfigError

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


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


def check_host(host: str, *, keys: bool) -> None:
    """Raises ConfigError if it is no loopback address and there are no keys.

    Args:
        keys: whether there is a key, a person, or a token to make the first one with.
    """
    if host not in LOOPBACK and not keys:
        raise ConfigError(
            f'host = "{host}": this server has no keys yet, so it listens on this machine only',
            remedy="make one with `hanok keys create NAME` or an administrator with `hanok users create NAME --role "
            "administrator`, or start with --setup; or use 127.0.0.1 and an SSH tunnel",
        )


@lru_cache(maxsize=256)
def called_by(host: str, names: tuple[str, ...]) -> bool:
    """Whether a server with keys is meant by this Host header: an address, this machine, or one of the names."""
    name = _hostname(f"//{host}")
    if name is None or not _HOST.fullmatch(host):
        return False
    if name in LOOPBACK or name in {one.lower() for one in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return (
        True  # an address cannot be made to mean another machine, which is what DNS rebinding does with names
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
