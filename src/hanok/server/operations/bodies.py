"""No request's body may be larger than so much."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanok.server.errors import error_response

UPLOADS = "/v1/files"


class BodyLimit:
    """ASGI middleware: 413 for a body over the limit, by its declared length or by what really comes.

    Args:
        limit: bytes for this path, asked for each request.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        too_large = error_response(
            413,
            f"the body is larger than {limit:,} bytes",
            code="body_too_large",
        )
        too_large.headers["Connection"] = "close"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await too_large(scope, receive, send)
            return
        came, answered, exceeded = 0, False, False

        async def receive_some() -> Message:
            nonlocal came, exceeded
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit and not exceeded:
                exceeded = True
                if not answered:
                    await too_large(scope, receive, send)
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
