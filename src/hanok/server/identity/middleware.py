"""Before any route: where the request comes from, who sends it, and, on the way back, what its answer says about that."""

from __future__ import annotations

import math
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanok.reporting import log
from hanok.server.errors import ApiError, error_response
from hanok.server.header_table import headers_of
from hanok.server.hosts import LOOPBACK, called_by, refusal
from hanok.server.identity.directory import Directory
from hanok.server.identity.proxies import look_through, parse_networks
from hanok.server.identity.roles import PUBLIC, needed
from hanok.server.identity.secrets import same
from hanok.server.principal import LOCAL, NOBODY, SCOPE_KEY, Principal, principal_of

COOKIE = "hanok_session"
CSRF = "x-hanok-csrf"
_SAFE = ("GET", "HEAD", "OPTIONS")
_ONCE = (b"host", b"origin", b"authorization", b"x-api-key", b"cookie", CSRF.encode(), b"x-request-timeout")
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, x-api-key, x-request-timeout",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = (
    "retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests"
)


class Identify:
    """ASGI middleware: finds the principal, or answers 400, 401, 403 or 503 itself.

    While there are no keys everybody who gets as far as this machine is its owner; pages from elsewhere, and names that are not
    this machine's, do not get there. With keys they are shown, or a session is; who shows nothing is nobody, and may call
    what is public.
    """

    def __init__(self, app: ASGIApp, directory: Directory) -> None:
        self._app, self._directory = app, directory
        self._proxies = parse_networks(directory.entry.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        look_through(scope, self._proxies)
        try:
            headers = headers_of(scope, once=_ONCE)
            await self._directory.fresh()
            if self._directory.closed:
                principal = await self._closed(scope, headers)
            else:
                _check_local(headers)
                principal = LOCAL
            origin = headers.get(b"origin")
            if origin is not None and scope["method"] == "OPTIONS":
                await self._preflight(origin, headers)(scope, receive, send)
                return
            principal = principal.asking(_deadline(headers, self._directory.entry.request_timeout))
        except ApiError as error:
            await refused(error)(scope, receive, send)
            return
        except SQLAlchemyError as error:
            log.error("the store cannot be asked who somebody is", exc_info=error)
            unknown = ApiError(
                503,
                "the store does not answer; try again",
                code="store_unavailable",
                headers={"Retry-After": "2"},
            )
            await refused(unknown)(scope, receive, send)
            return
        if origin is not None and _foreign(origin, headers):
            principal.reply.update(_cors(origin))
        scope[SCOPE_KEY] = principal
        if (request := scope.get("hanok.request")) is not None:
            request.principal = principal

        async def send_with_reply(message: Message) -> None:
            if message["type"] == "http.response.start" and principal.reply:
                MutableHeaders(scope=message).update(principal.reply)
            await send(message)

        await self._app(scope, receive, send_with_reply)

    async def _closed(self, scope: Scope, headers: dict[bytes, str]) -> Principal:
        entry, host = self._directory.entry, headers.get(b"host", "")
        if not called_by(host, entry.allowed_hosts):
            raise ApiError(
                403, f'this server is not called "{host[:200]}"; `--allowed-host` adds names', code="forbidden_host"
            )  # fmt: skip
        origin, method = headers.get(b"origin"), scope["method"]
        foreign = origin is not None and _foreign(origin, headers)
        address = scope["client"][0] if scope.get("client") else None
        presented = _presented(headers)
        trusted = entry.trust_loopback and not foreign and self._at_home(scope, headers, address)
        if presented is not None and not (trusted and not presented.startswith("hk_")):
            principal = await self._directory.key(presented, address=address)
            own = await self._directory.own_key(principal) if foreign else None
            if foreign and (own is None or origin not in (own.origins or ())):
                raise ApiError(
                    403, f'this key may not be used from pages of "{origin}"', code="origin_not_allowed"
                )
            return principal
        if foreign and method != "OPTIONS":
            raise ApiError(403, f'requests from pages of "{origin}" need a key', code="origin_not_allowed")
        cookie = _cookie(headers)
        found = await self._directory.session(cookie) if cookie is not None and not foreign else None
        if found is not None:
            principal, session = found
            if method not in _SAFE and not (origin and same(headers.get(CSRF.encode(), ""), session.csrf)):
                raise ApiError(
                    403, f"a session needs the headers Origin and {CSRF}", code="csrf_token_missing"
                )
            return principal
        return LOCAL if trusted else NOBODY

    @staticmethod
    def _at_home(scope: Scope, headers: dict[bytes, str], address: str | None) -> bool:
        """The request began on this machine, by a name of it, and nobody passed it on."""
        local = address in LOOPBACK or (address or "").startswith("127.")
        passed_on = any(name in headers for name in _FORWARDED)
        return local and not passed_on and refusal(headers.get(b"host", ""), headers.get(b"origin")) is None

    def _preflight(self, origin: str, headers: dict[bytes, str]) -> Response:
        if not _foreign(origin, headers):
            return Response(status_code=204)
        if not self._directory.allows_origin(origin):
            return refused(
                ApiError(403, f'no key may be used from pages of "{origin}"', code="origin_not_allowed")
            )
        return Response(status_code=204, headers={**_cors(origin), **_PREFLIGHT})


async def authorise(request: Request) -> None:
    """A dependency of every route: what its function `needs`, this principal must have. Raises ApiError 401 or 403."""
    endpoint = request.scope["route"].endpoint
    wanted, principal = needed(endpoint), principal_of(request)
    if wanted == PUBLIC or (wanted is not None and principal.may(wanted)):
        return
    if principal.kind == "nobody":
        raise ApiError(
            401, "show a key: Authorization: Bearer hk_..., or sign in", code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    if wanted is None and principal.runs_house and principal.may("service:manage"):
        return
    raise ApiError(
        403, f'"{wanted or "this"}" is not allowed to the role "{principal.role}" with the scopes of this key',
        code="permission_denied",
    )  # fmt: skip


def refused(error: ApiError) -> Response:
    response = error_response(error.status, error.message, param=error.param, code=error.code)
    response.headers.update(error.headers)
    return response


def _check_local(headers: dict[bytes, str]) -> None:
    problem = refusal(headers.get(b"host", ""), headers.get(b"origin"))
    if problem is not None:
        raise ApiError(403, problem, code="forbidden_host")


def _presented(headers: dict[bytes, str]) -> str | None:
    """The key, however it is sent. Raises ApiError 400 or 401."""
    bearer, key = headers.get(b"authorization"), headers.get(b"x-api-key")
    if bearer is not None and key is not None:
        raise ApiError(400, "Authorization and x-api-key: send one of them", code="duplicate_header")
    if bearer is None:
        return key
    scheme, _, token = bearer.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ApiError(401, "Authorization must be `Bearer hk_...`", code="invalid_api_key")
    return token.strip()


def _cookie(headers: dict[bytes, str]) -> str | None:
    try:
        found = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None and found.value else None


def _foreign(origin: str, headers: dict[bytes, str]) -> bool:
    try:
        return urlsplit(origin).netloc.lower() != headers.get(b"host", "").lower() or origin == "null"
    except ValueError:
        return True


def _cors(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": _EXPOSED,
        "Vary": "Origin",
    }


def _deadline(headers: dict[bytes, str], most: float | None) -> float | None:
    """On the monotonic clock: what the client says, within what the server allows."""
    given = headers.get(b"x-request-timeout")
    if given is None:
        return None if most is None else time.monotonic() + most
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds <= 86_400.0:
        raise ApiError(
            400, f'x-request-timeout = "{given[:40]}": seconds, up to 86400', param="x-request-timeout"
        )
    return time.monotonic() + min(seconds, most or seconds)
