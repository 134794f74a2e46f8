"""Samples of one prompt for somebody: checked, admitted, run, observed. Whatever makes a model speak goes through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal
from urllib.parse import quote

from hanok.engine.api import Delta, Request, Usage
from hanok.engine.samples import expand
from hanok.server.errors import ApiError
from hanok.server.exchange import Exchange, Lease, Outcome
from hanok.server.models import Served
from hanok.server.principal import Principal
from hanok.server.protection.transparency import HEADER
from hanok.server.services import Services

BLOCKED: Literal["content_filter"] = "content_filter"  # the reason of an answer that the guard ended
LOST = -1  # in place of a sample's index: whoever asked may no longer


class Generation:
    """Made by `begin`; whoever began it waits for `begun`, reads `deltas` to their end, and calls `close` in any case."""

    def __init__(
        self,
        services: Services,
        served: Served,
        exchange: Exchange,
        requests: Sequence[Request],
        lease: Lease,
    ) -> None:
        self.exchange, self.samples = exchange, len(requests)
        self._services, self._served, self._requests, self._lease = services, served, requests, lease
        self._queue: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue()
        self._cancels: list[Callable[[], None]] = []
        self._over: set[int] = set()  # samples of which nothing more is taken
        self._usages: list[Usage] = []
        self._tokens, self._reason = 0, "cancelled"
        self._first: float | None = None
        self._ending: asyncio.Task[None] | None = None
        self._dropped: set[int] = set()
        self._round = services.caps.rounding(exchange.principal.tenant)
        self._counts = [0] * len(requests)

    @classmethod
    async def begin(
        cls, services: Services, served: Served, principal: Principal, request: Request, *, route: str, streamed: bool
    ) -> Generation:  # fmt: skip
        """Takes over `served`, which is given back when the generation ends, or cannot begin.

        Raises InputError, ContextLengthError, StructureError, QueueFullError or ApiError before anything runs.
        """
        try:
            request = replace(  # a client's word has no part in whose cache is used, who is next, or how long it may take
                request, tenant=services.directory.salt(principal, served.hash), priority=principal.priority,
                deadline=principal.deadline if request.deadline is None else request.deadline,
            )  # fmt: skip
            services.caps.check(request.params, principal.tenant)
            if services.monitor is not None:
                await services.monitor.admit(principal, request)
            params = request.params
            if services.watermarks is not None:
                params = services.watermarks.marked(params, principal.tenant)
            if params is not request.params:
                request = replace(request, params=params)
            mark = params.watermark
            engine, requests = served.engine, expand(request)
            if request.params.structure is None:
                engine.check(requests[0])
            else:  # a grammar takes a while to read
                await asyncio.to_thread(engine.check, requests[0])
            engine.check_room(len(requests))
            room = engine.max_context - len(request.prompt_ids)
            exchange = Exchange(
                id=request.id, route=route, principal=principal, model=served.name, model_hash=served.hash,
                prompt_tokens=len(request.prompt_ids), streamed=streamed, watermark="" if mark is None else mark.key_id,
                max_tokens=len(requests) * min(request.params.max_tokens or room, room),
            )  # fmt: skip
            services.queue.enter(exchange.prompt_tokens)
            try:
                lease = await services.admission.admit(exchange)
            except BaseException:
                services.queue.leave(exchange.prompt_tokens)
                raise
        except BaseException:
            services.models.give_back(served)
            raise
        for observer in services.observers:
            observer.begun(exchange)
        generation = cls(services, served, exchange, requests, lease)
        try:
            generation._start()
        except BaseException:
            generation._reason = "error"
            await generation.close()
            raise
        return generation

    async def begun(self) -> None:
        """Once the model reads. Before its answer is made ready: others' requests come first, and the model need not wait."""
        await self._served.engine.begun()
        reply = self.exchange.principal.reply
        reply.update(self._lease.headers())
        reply[HEADER] = quote(self._served.name)

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """Index of the sample and its next tokens, as they come; closing it cancels all samples."""
        directory, principal = self._services.directory, self.exchange.principal
        try:
            running = self.samples
            with directory.following(principal, lambda: self._queue.put_nowait((LOST, None))):
                while running:
                    index, delta = await self._next()
                    running -= delta is None or delta.finish_reason is not None
                    if delta is not None:
                        self._count(index, delta)
                    if index not in self._dropped:
                        if delta is not None:
                            yield index, self._in_time(delta)
                    elif delta is None or delta.finish_reason is not None:
                        yield index, self._last_of(index)
        except Exception:
            self._reason = "error"
            raise
        finally:
            await self.close()

    def _start(self) -> None:
        for index, request in enumerate(self._requests):
            self._cancels.append(self._served.engine.follow(request, partial(self._told, index)))

    async def _next(self) -> tuple[int, Delta | None]:
        """None: the sample has been ended, or has failed when nobody was to see more of it. Raises what ended it."""
        index, item = await self._queue.get()
        if index == LOST:
            raise ApiError(401, "the right to go on was taken back", code="access_revoked")
        if not isinstance(item, Exception):
            return index, item
        if index in self._dropped:
            return index, None
        raise item

    def _told(self, index: int, item: Delta | Exception) -> None:
        if index in self._over:
            return
        if isinstance(item, Exception) or item.finish_reason is not None:
            self._over.add(index)
        self._queue.put_nowait((index, item))

    def stop(self) -> None:
        """End it now: whoever reads `deltas` gets no more of them."""
        for index in range(self.samples):
            self._end_sample(index)

    def drop(self, index: int) -> None:
        """End one sample whose rest nobody is to see; one last delta of it comes, with what it has cost."""
        self._dropped.add(index)
        self._reason = BLOCKED
        self._end_sample(index)

    def _end_sample(self, index: int) -> None:
        if index not in self._over:
            self._over.add(index)
            self._cancels[index]()
            self._queue.put_nowait((index, None))

    async def close(self) -> None:
        """Cancel what runs, tell those who count, give the model back. Once; later calls wait for the first."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
        if self._ending.done():
            self._ending.result()
        else:
            await asyncio.shield(self._ending)  # a client that goes away cancels us, not this

    def _in_time(self, delta: Delta) -> Delta:
        """As it may be told. Raises ApiError 504."""
        if delta.finish_reason == "cancelled" and self._too_late():
            raise ApiError(
                504, "the time for this request was over before it began", code="deadline_exceeded"
            )
        return self._round(delta)

    def _too_late(self) -> bool:
        """Nothing was said by the deadline; what was said in part is given as far as it came."""
        deadline = self._requests[0].deadline
        return self._tokens == 0 and deadline is not None and time.monotonic() >= deadline

    def _last_of(self, index: int) -> Delta:
        usage = Usage(prompt_tokens=self.exchange.prompt_tokens, completion_tokens=self._counts[index])
        return Delta(ids=(), finish_reason="cancelled", usage=usage)

    def _count(self, index: int, delta: Delta) -> None:
        self._tokens += len(delta.ids)
        self._counts[index] += len(delta.ids)
        if self._first is None and delta.ids:
            self._first = time.monotonic() - self.exchange.started
            self._services.queue.leave(self.exchange.prompt_tokens)
        if delta.usage is not None:
            self._usages.append(delta.usage)
        if delta.finish_reason is not None and len(self._usages) == self.samples and not self._dropped:
            self._reason = delta.finish_reason

    async def _end(self) -> None:
        try:
            for cancel in self._cancels:
                cancel()
            if self._first is None:
                self._services.queue.leave(self.exchange.prompt_tokens)
            outcome = Outcome(
                reason=self._reason, completion_tokens=self._tokens,
                cached_tokens=sum(one.cached_tokens for one in self._usages),
                first_token_seconds=self._first, seconds=time.monotonic() - self.exchange.started,
            )  # fmt: skip
            try:
                for observer in self._services.observers:
                    observer.ended(self.exchange, outcome)
            finally:
                await self._lease.settle(outcome)
        finally:
            self._services.models.give_back(self._served)
