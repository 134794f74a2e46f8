"""Answers under way: server-sent events, and what happens when nobody listens any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DRAIN_SECONDS = 20  # how long running answers may go on after SIGTERM
PING_SECONDS = 15.0  # between comments that keep proxies from closing a connection on which nothing is said
_HEADERS = {"Cache-Control": "no-store", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
Event = str | Mapping[str, str]
T = TypeVar("T")


class EventStream(Response):
    """Server-sent events, as HTML's standard writes them; they end when the client goes away.

    Args:
        events: the data of each, or its `event` and `data`; without line ends, which JSON has none of.
        close: called at the end, even if the client was gone before the first event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event, None], close: Callable[[], Awaitable[None]]) -> None:
        self.status_code, self.background = 200, None
        self.init_headers(_HEADERS)
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with _while_there(receive), _pings(send):
                start = {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
                await send(start)
                async with aclosing(self._events) as events:
                    async for event in events:
                        await send(_body(encoded(event)))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._close()


def encoded(event: Event) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    return f"event: {event['event']}\ndata: {event['data']}\n\n".encode()


def _body(part: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": part, "more_body": True}


@asynccontextmanager
async def _while_there(receive: Receive) -> AsyncGenerator[None, None]:
    """Ends the block, without an error, when the client goes away. In the task that runs it, since another costs more than
    what is sent."""
    task, left = asyncio.current_task(), False
    assert task is not None
    before = task.cancelling()

    def leave(done: asyncio.Task[None]) -> None:
        nonlocal left
        if not done.cancelled() and done.exception() is None:
            left = True
            task.cancel()

    watch = asyncio.get_running_loop().create_task(_gone(receive))
    watch.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if not left or task.uncancel() > before:
            raise
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


@asynccontextmanager
async def _pings(send: Send) -> AsyncGenerator[None, None]:
    """Comments in between, as long as the block runs."""
    loop, under_way = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def ping() -> None:
        nonlocal timer
        if not under_way:  # else one waits for the client still
            task = loop.create_task(_ping(send))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        timer = loop.call_later(PING_SECONDS, ping)

    timer = loop.call_later(PING_SECONDS, ping)
    try:
        yield
    finally:
        timer.cancel()
        for task in under_way:
            task.cancel()


async def _ping(send: Send) -> None:
    await send(_body(b": ping\n\n"))


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result, or None (and the work cancelled) if the client goes away first."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        await _stop(task, watch)


async def _stop(*tasks: Awaitable[Any]) -> None:
    for task in tasks:
        if isinstance(task, asyncio.Future):
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
