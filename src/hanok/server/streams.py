"""Answers under way: how long they may go on, and what happens when nobody listens any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

DRAIN_SECONDS = 20  # how long running answers may go on after SIGTERM
T = TypeVar("T")


class EventStream(EventSourceResponse):
    """Server-sent events; `close` is called at the end, even if the client was gone before the first of them."""

    def __init__(self, events: AsyncIterable[Any], close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, sep="\n", shutdown_grace_period=DRAIN_SECONDS)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """Without a time-out of its own, whose scope costs a tenth of an event: `operations.timeouts` watches the connection."""
        await send(message)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result, or None (and the work cancelled) if the client goes away first."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
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


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
