"""What was asked and answered, for the audit of a server that is told to keep it: the bodies as they went over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 256 << 10  # of each body; the rest is left out, and the entry says so
_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/feedback")


@dataclass(slots=True)
class Captured:
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    cut: bool = False

    def content(self) -> dict[str, object]:
        words = (self.asked.decode("utf-8", "replace"), self.answered.decode("utf-8", "replace"))
        return {"asked": words[0], "answered": words[1], "cut": self.cut}

    def keep(self, where: bytearray, part: bytes) -> None:
        room = MOST_BYTES - len(where)
        self.cut |= len(part) > room
        where += part[:room]


class Capture:
    """ASGI middleware inside of `Follow`, whose request it adds to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = scope.get("hanok.request")
        if scope["type"] != "http" or request is None or scope["path"] not in _ROUTES:
            await self._app(scope, receive, send)
            return
        captured = request.captured = Captured()

        async def receive_and_keep() -> Message:
            message = await receive()
            captured.keep(captured.asked, message.get("body", b""))
            return message

        async def send_and_keep(message: Message) -> None:
            if message["type"] == "http.response.body":
                captured.keep(captured.answered, message.get("body", b""))
            await send(message)

        await self._app(scope, receive_and_keep, send_and_keep)
