"""Server-sent events, and what carries them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from hanok.server import streams
from hanok.server.app import listen
from hanok.server.operations.coalescing import MOST, CoalescingTransport
from hanok.server.streams import EventStream


class Client:
    """An ASGI client: keeps what is sent, and goes away when told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.sent[1:])


def answer(events: AsyncGenerator[Any, None], client: Client, closed: list[str]) -> Any:
    async def close() -> None:
        closed.append("closed")

    return EventStream(events, close)({"type": "http"}, client.receive, client.send)


def test_events_as_the_standard_writes_them() -> None:
    async def run() -> tuple[Client, list[str]]:
        client, closed = Client(), list[str]()

        async def events() -> AsyncGenerator[Any, None]:
            yield '{"a": "안녕"}'
            yield {"event": "done", "data": "{}"}

        await answer(events(), client, closed)
        return client, closed

    client, closed = asyncio.run(run())
    assert client.body == 'data: {"a": "안녕"}\n\nevent: done\ndata: {}\n\n'.encode()
    assert client.sent[-1]["more_body"] is False
    assert dict(client.sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"content-length" not in dict(client.sent[0]["headers"])
    assert closed == ["closed"]


def test_it_ends_quietly_when_the_client_goes() -> None:
    async def run() -> None:
        client, closed = Client(), list[str]()

        async def events() -> AsyncGenerator[Any, None]:
            try:
                yield "1"
                await asyncio.sleep(3600)
            finally:
                closed.append("events")

        task = asyncio.create_task(answer(events(), client, closed))
        while not client.body:
            await asyncio.sleep(0)
        client.left.set()
        await asyncio.wait_for(task, 10)  # no CancelledError
        assert closed == ["events", "closed"]
        assert client.sent[-1]["more_body"] is True

    asyncio.run(run())


def test_who_cancels_it_is_told_so() -> None:
    async def run() -> None:
        client, closed = Client(), list[str]()

        async def events() -> AsyncGenerator[Any, None]:
            yield "1"
            await asyncio.sleep(3600)

        task = asyncio.create_task(answer(events(), client, closed))
        while not client.body:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed == ["closed"]

    asyncio.run(run())


def test_a_word_now_and_then_while_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.01)

    async def run() -> Client:
        client = Client()

        async def events() -> AsyncGenerator[Any, None]:
            while client.body.count(b": ping\n\n") < 2:
                await asyncio.sleep(0.01)
            yield "1"

        await answer(events(), client, [])
        after = len(client.sent)
        await asyncio.sleep(0.05)
        assert len(client.sent) == after
        return client

    assert asyncio.run(run()).body.endswith(b"data: 1\n\n")


def test_an_event_does_not_wait_for_the_client_to_say_that_it_has_the_one_before() -> None:
    """Nagle's algorithm is off: with it a second small write waits up to 40 ms."""

    async def no_delay(listener: socket.socket) -> int:
        made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(transport)

        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        async with server:
            host, port = listener.getsockname()[:2]
            _, writer = await asyncio.open_connection(host, port)
            transport = await made
            found = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            transport.close()
            return found

    async def run() -> None:
        assert await no_delay(listen("127.0.0.1", 0))
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # the control: as asyncio does not know it
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        assert not await no_delay(plain)

    asyncio.run(run())


class Written(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 7

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def test_what_one_turn_writes_leaves_together() -> None:
    async def run() -> None:
        inner = Written()
        transport = CoalescingTransport(inner, asyncio.get_running_loop())
        transport.write(b"head")
        transport.write(b"")
        transport.write(b"body")
        assert (inner.writes, transport.get_write_buffer_size()) == ([], 15)
        await asyncio.sleep(0)
        assert (inner.writes, transport.get_write_buffer_size()) == ([b"headbody"], 7)
        transport.write(b"x" * MOST)  # so much does not wait
        assert len(inner.writes) == 2
        transport.write(b"last")
        transport.close()
        assert inner.writes[-1] == b"last"
        assert inner.closed
        transport.write(b"too late")
        await asyncio.sleep(0)
        assert inner.writes[-1] == b"last"

    asyncio.run(run())


def test_what_is_cut_is_not_written() -> None:
    async def run() -> None:
        inner = Written()
        transport = CoalescingTransport(inner, asyncio.get_running_loop())
        transport.write(b"x")
        transport.abort()
        await asyncio.sleep(0)
        assert inner.writes == []

    asyncio.run(run())
