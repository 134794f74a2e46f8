"""Responses that are answered while nobody waits for them (`background`): begun, worked on, kept when they end however they end.

The request that began one is over at once. Its work counts as the server's until it ends, so a server that drains waits for it
and cuts it short with a word when the grace time is over; it has an entry of its own in the audit. While it goes on, its row is
marked as alive again and again: by that another server of the same store knows that somebody works on it, and after a crash
everybody knows that nobody does. Through the row another server asks for its end, too.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hanok.reporting import log
from hanok.server.auditing.capture import Captured
from hanok.server.auditing.requests import RequestTrail
from hanok.server.errors import stream_error
from hanok.server.operations.requests import CURRENT, HttpRequest
from hanok.server.services import Services
from hanok.store.responses import KeptResponse, ResponseTable

if TYPE_CHECKING:
    from hanok.server.responses import Response

BEAT, LOST = 2.0, 60.0  # seconds between two marks, and after the last one, when nobody works on it any more
ROUTE = "/v1/responses"
UNDER_WAY = ("queued", "in_progress")


class Background:
    """Those of this process."""

    def __init__(self, services: Services, table: ResponseTable) -> None:
        self._services, self._table = services, table
        self._running: dict[str, tuple[Response, asyncio.Task[None]]] = {}
        self._beating: asyncio.Task[None] | None = None

    async def take(self, response: Response) -> dict[str, Any]:
        """Its body as it is now; from here on it is answered by itself. Raises InputError: the tenant was deleted."""
        try:
            begun = copy.deepcopy(response.writer.body)
            await asyncio.to_thread(self._table.add, response.kept(begun, beat=time.time()))
        except BaseException:
            await response.close()
            raise
        self._services.operations.lifecycle.active += (
            1  # before the request is over: a server that drains waits for one of both
        )
        task = asyncio.get_running_loop().create_task(
            self._answer(response, _follow_up(CURRENT.get(), response))
        )
        self._running[begun["id"]] = (response, task)
        if self._beating is None:
            self._beating = asyncio.get_running_loop().create_task(self._beat())
        return begun

    async def lost(self, kept: KeptResponse) -> Mapping[str, Any]:
        """Its body: a failure, where the server that worked on it has stopped doing so."""
        if kept.beat is None or time.time() - kept.beat <= LOST:
            return kept.body
        error = {"code": "server_error", "message": "the server ended before the answer did; ask again"}
        body = {**kept.body, "status": "failed", "error": error}
        return body if await asyncio.to_thread(self._table.lose, kept, body) else kept.body

    async def _answer(self, response: Response, request: HttpRequest) -> None:
        services = self._services
        CURRENT.set(request)  # of this task: exchanges and calls of tools belong to it
        try:
            await response.complete()
        except Exception as error:
            request.failure, request.status = type(error).__name__, 500
            for _ in response.writer.fail(stream_error(error, response.writer.body["id"])):
                pass
            await self._keep_failed(response)
        finally:
            self._running.pop(response.writer.body["id"], None)
            try:
                await response.close()
                self._tell(response, request)
            finally:
                services.operations.lifecycle.active -= 1

    def _tell(self, response: Response, request: HttpRequest) -> None:
        request.over = True
        if request.captured is not None:
            body = json.dumps(response.writer.body, ensure_ascii=False)
            request.captured.keep(request.captured.answered, body.encode())
        RequestTrail(self._services.directory.trail).finished(request)

    async def _keep_failed(self, response: Response) -> None:
        try:
            await asyncio.to_thread(self._table.finish, response.kept(response.writer.body))
        except Exception as error:  # its mark grows old: whoever asks for it is told that it is lost
            log.error("response %s cannot be kept", response.writer.body["id"], exc_info=error)

    async def _beat(self) -> None:
        try:
            while self._running:
                await asyncio.sleep(BEAT)
                bodies = {name: copy.deepcopy(one.writer.body) for name, (one, _) in self._running.items()}
                try:
                    to_end = await asyncio.to_thread(self._table.beat, bodies, time.time()) if bodies else ()
                except Exception as error:  # the store may answer the next time
                    log.error("responses under way cannot be marked as such", exc_info=error)
                    continue
                for name in to_end:
                    if name in self._running:
                        self._running[name][0].turn.generation.stop()
        finally:
            self._beating = None


def _follow_up(first: HttpRequest | None, response: Response) -> HttpRequest:
    """What the audit is told of: the work that goes on behind a request, under its id."""
    request = HttpRequest(
        id=uuid.uuid4().hex if first is None else first.id, method="POST", path=ROUTE, status=200, route=ROUTE,
        traceparent="" if first is None else first.traceparent, principal=response.principal,
    )  # fmt: skip
    if first is not None and first.captured is not None:
        request.captured = Captured()
    return request
