"""Who asks: found once for each request, before any route runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

Role = Literal["viewer", "user", "reviewer", "administrator"]
_KEY = "hanok.principal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A key, a person with a session, or whoever sits at this machine.

    Args:
        id: public; of the key or the person. tenant: whose cache, documents, limits and logs are used.
        models: names that may be asked for; None for all.
    """

    id: str
    tenant: str = "default"
    role: Role = "user"
    models: frozenset[str] | None = None


LOCAL = Principal(id="local", role="administrator")


class Identify:
    """ASGI middleware: without keys everybody who gets as far as this machine is its owner."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[_KEY] = LOCAL
        await self._app(scope, receive, send)


def principal_of(request: Request) -> Principal:
    return request.scope[_KEY]  # an error, not a guess, where nobody identified the request
