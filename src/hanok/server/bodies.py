"""What a body must be before anything reads it: no larger than allowed, of a kind that the server takes, and JSON without traps.

Traps are what readers of JSON disagree about, so that two parts of a system may see two different requests: names that occur
twice, NaN and Infinity, halves of surrogate pairs. Depth is bounded because everything that walks a body recurses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanok.server.errors import ApiError, error_response
from hanok.server.header_table import headers_of

DEEPEST = 256  # levels of JSON
LARGE = 64 << 10  # bytes; such bodies are read beside the event loop
VALUE_KEY = "hanok.body"  # of the scope: the body that was read, where there is one
LINGER_BYTES, LINGER_SECONDS = 8 << 20, 2.0  # that are read of a body that is refused
_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class Bodies:
    """ASGI middleware, the only one that looks at bodies. One of JSON is read and checked before the application is called;
    multipart bodies (files), and those of methods that have none, are passed on as they come and counted.

    Args:
        limit: bytes for this path, asked for each request. More are answered 413, by the declared length or by what comes.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        limit, kind = (
            self._limit(scope["path"]),
            headers.get(b"content-type", "").split(";")[0].strip().lower(),
        )
        if _declared(headers) > limit:
            if b"expect" not in headers:  # else nothing is sent before we say so
                await _drop_rest(receive)
            await _too_large(limit)(scope, receive, send)
        elif scope["method"] not in _METHODS or kind.startswith("multipart/"):
            await self._pass_on(limit, scope, receive, send)
        else:
            await self._check(limit, headers, kind, scope, receive, send)

    async def _check(
        self, limit: int, headers: Mapping[bytes, str], kind: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            _check_encoding(headers.get(b"content-encoding", ""))
            body = await _read(receive, limit)
            if body is None:  # the client went away
                return
            if body:
                _check_kind(kind)
                large = len(body) > LARGE
                scope[VALUE_KEY] = await asyncio.to_thread(check_json, body) if large else check_json(body)
        except _TooLargeError:
            await _drop_rest(receive)
            await _too_large(limit)(scope, receive, send)
        except ApiError as error:
            await error_response(error.status, error.message, code=error.code)(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _pass_on(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        came, answered, exceeded = 0, False, False

        async def receive_some() -> Message:
            nonlocal came, exceeded
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit and not exceeded:
                exceeded = True
                if not answered:
                    await _drop_rest(receive)
                    await _too_large(limit)(scope, receive, send)
            return {"type": "http.disconnect"} if exceeded else message

        async def send_unless_exceeded(message: Message) -> None:
            nonlocal answered
            answered = True
            if not exceeded:
                await send(message)

        try:
            await self._app(scope, receive_some, send_unless_exceeded)
        except Exception:
            if not exceeded:  # a route that finds its client gone may say so as it likes
                raise


class _TooLargeError(Exception):
    pass


def _declared(headers: Mapping[bytes, str]) -> int:
    length = headers.get(b"content-length", "0")
    return int(length) if length.isdigit() else 0


def _too_large(limit: int) -> JSONResponse:
    response = error_response(413, f"the body is larger than {limit:,} bytes", code="body_too_large")
    response.headers["Connection"] = "close"  # the rest of it is not read
    return response


async def _drop_rest(receive: Receive) -> None:
    """Read on for a moment: closed upon bytes that nobody read, a connection is reset, and the answer is lost with it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            came = 0
            while came < LINGER_BYTES:
                message = await receive()
                came += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def _read(receive: Receive, limit: int) -> bytes | None:
    """None if the client goes away first. Raises _TooLargeError."""
    parts, came, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        came += len(parts[-1])
        if came > limit:
            raise _TooLargeError
        more = message.get("more_body", False)
    return b"".join(parts)


def _check_encoding(encoding: str) -> None:
    if encoding.strip().lower() not in ("", "identity"):
        raise ApiError(
            415, f"Content-Encoding {encoding!r}: send the body as it is", code="unsupported_encoding"
        )


def _check_kind(kind: str) -> None:
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(415, f"Content-Type {kind!r}: send application/json", code="unsupported_content_type")


def check_json(body: bytes) -> Any:
    """The value. Raises ApiError 400."""
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # a number of thousands of digits
        raise _bad(f"the body cannot be read: {error}") from error
    except RecursionError:
        raise _bad(f"JSON more than {DEEPEST} levels deep") from None
    if body.count(b"{") + body.count(b"[") > DEEPEST or b"\\u" in body:
        _walk(value)
    return value


def _walk(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise _bad(f"JSON more than {DEEPEST} levels deep")
        inner: list[Any] = []
        for one in level:
            if isinstance(one, str):
                _check_text(one)
            elif isinstance(one, dict):
                inner += one.keys()
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad("text that is not Unicode: half a surrogate pair (\\ud800 to \\udfff)") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _bad(f"{twice!r} occurs twice in one object".encode("ascii", "backslashreplace").decode())
    return found


def _constant(name: str) -> Any:
    raise _bad(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _bad(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever else comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
