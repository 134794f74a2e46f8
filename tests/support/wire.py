"""One connection to our HTTP/1.1 protocol, without a socket: what comes byte by byte, and what is written."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from hanok.server.operations.timeouts import Guard, Patience

HOST = b"Host: a\r\n"
GET = b"GET /x?y=1 HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST


class Wire(asyncio.Transport):
    """The other end of a connection: what was written, and whether it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.closed = self.paused = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)}.get(name, default)

    @property
    def statuses(self) -> list[int]:
        return [int(one) for one in re.findall(rb"HTTP/1.1 (\d+) ", self.out)]


class House:
    """An application that answers each request with its body, once it is let go on, and keeps what it was asked."""

    def __init__(self, protocol: type[Any] | None = None) -> None:
        self.seen: list[tuple[dict[str, Any], bytes]] = []
        self.left = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.guard = Guard(Patience())
        kind = protocol or self.guard.protocol()
        self.config = uvicorn.Config(
            self.app,
            http=kind,
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
        )
        self.config.load()
        self.wire = Wire()
        self.wire.protocol = kind(config=self.config, server_state=ServerState(), app_state={})
        self.wire.protocol.connection_made(self.wire)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body, more = body + message["body"], message["more_body"]
        self.seen.append((scope, body))
        waits = [asyncio.ensure_future(self.go_on.wait()), asyncio.ensure_future(receive())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        self.left += not self.go_on.is_set()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            if not (self.wire.closed or self.wire.paused):
                self.wire.protocol.data_received(part)
            await self.settle(20)
        await self.settle()

    async def settle(self, turns: int = 400) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


def talk(*parts: bytes, protocol: type[Any] | None = None) -> House:
    async def run() -> House:
        house = House(protocol)
        await house.send(*parts)
        return house

    return asyncio.run(run())


def bytewise(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


def body(coding: bytes, content: bytes) -> bytes:
    return POST + coding + b"\r\n" + content
