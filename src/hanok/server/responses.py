"""OpenAI's responses: an answer as items, kept (`store`) so that a later request goes on from it by its id."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from hanok.server.asking import Turn, ask, count_prompt
from hanok.server.background import LOST, UNDER_WAY, Background
from hanok.server.errors import ApiError, stream_error
from hanok.server.principal import Principal
from hanok.server.response_schema import Message, ResponseRequest
from hanok.server.response_writer import Event, ResponseWriter
from hanok.server.schema import ChatRequest
from hanok.server.services import Services
from hanok.store.responses import KeptResponse, ResponseTable

_ID = re.compile(r"resp_[0-9a-f]{32}")
_LOOK = 0.2  # seconds between looks at whether another server has ended one


class Responses:
    """All of a server: those that are kept, and those under way."""

    def __init__(self, services: Services) -> None:
        self._services, self._table = services, ResponseTable(services.store)
        self._running: dict[str, Response] = {}
        self.background = Background(services, self._table)

    async def begin(self, body: ResponseRequest, principal: Principal) -> Response:
        """Raises ApiError, InputError, ContextLengthError or QueueFullError; nothing runs then."""
        if body.background and (body.stream or body.store is False):
            param = "stream" if body.stream else "store"
            why = "asked for again until it has ended" if body.stream else "kept"
            raise ApiError(
                400, f"a response in the background is {why}", param=param, code="not_in_background"
            )
        said, chat = await self._conversation(body, principal)
        name = f"resp_{uuid.uuid4().hex}"
        asked = await ask(
            self._services, chat, principal, name=name, route="responses", streamed=bool(body.stream)
        )
        response = Response(self, body, Turn(asked), said, principal)
        self._running[name] = response
        return response

    async def count(self, body: ResponseRequest, principal: Principal) -> int:
        """Tokens of what the model would read. Raises as `begin`."""
        _, chat = await self._conversation(body, principal)
        return await count_prompt(self._services, chat, principal)

    async def _conversation(
        self, body: ResponseRequest, principal: Principal
    ) -> tuple[list[Message], ChatRequest]:
        """What was said until now, and all of it as a chat."""
        past: list[Message] = []
        if body.previous_response_id is not None:
            kept = await self._find(body.previous_response_id, principal)
            if kept is None:
                raise ApiError(
                    400, f'no response "{body.previous_response_id}" is kept here', param="previous_response_id",
                    code="previous_response_not_found",
                )  # fmt: skip
            if (await self.background.lost(kept))["status"] in UNDER_WAY:
                raise ApiError(
                    400, f'response "{body.previous_response_id}" has not ended', param="previous_response_id",
                    code="previous_response_not_ended",
                )  # fmt: skip
            past = [dict(message) for message in kept.messages]
        said = [*past, *body.messages()]
        system = [{"role": "system", "content": body.instructions}] if body.instructions else []
        return said, body.chat([*system, *said])

    async def get(self, response_id: str, principal: Principal) -> dict[str, Any]:
        """Raises ApiError 404, for another tenant's too."""
        running = self._own(response_id, principal)
        if running is not None:
            return running.writer.body
        return dict(await self.background.lost(await self._kept(response_id, principal)))

    async def items(self, response_id: str, principal: Principal) -> list[dict[str, Any]]:
        """The input, in its order."""
        return [dict(item) for item in (await self._kept(response_id, principal)).input]

    async def delete(self, response_id: str, principal: Principal) -> None:
        await self._kept(response_id, principal)
        running = self._own(response_id, principal)
        if running is not None:  # in the background: nobody will ask for it
            running.turn.generation.stop()
        await asyncio.to_thread(self._table.delete, response_id, tenant=principal.tenant)

    async def cancel(self, response_id: str, principal: Principal) -> dict[str, Any]:
        """Once it has ended; one in the background that was cancelled before stays so."""
        running = self._own(response_id, principal)
        if running is not None:
            running.turn.generation.stop()
            await running.ended.wait()
            return running.writer.body
        body = await self.get(response_id, principal)
        if body["status"] in UNDER_WAY:
            body = await self._cancelled_elsewhere(response_id, principal)
        if body["status"] != "cancelled" or not body["background"]:
            raise ApiError(400, "only a response under way can be cancelled", code="not_running")
        return body

    async def _cancelled_elsewhere(self, response_id: str, principal: Principal) -> dict[str, Any]:
        """By the server that works on it, or lost."""
        await asyncio.to_thread(self._table.cancel, response_id, tenant=principal.tenant)
        end = time.monotonic() + LOST
        while (body := await self.get(response_id, principal))["status"] in UNDER_WAY:
            if time.monotonic() > end:
                raise ApiError(503, "the server that works on it does not answer", code="server_error")
            await asyncio.sleep(_LOOK)
        return body

    async def keep(self, response: Response) -> None:
        """Before the client is told of the end."""
        self._running.pop(response.writer.body["id"], None)
        if response.body.store is False:
            return
        keep = self._table.finish if response.body.background else self._table.add
        await asyncio.to_thread(keep, response.kept(response.writer.body))

    def forget(self, response: Response) -> None:
        self._running.pop(response.writer.body["id"], None)

    def _own(self, response_id: str, principal: Principal) -> Response | None:
        running = self._running.get(response_id)
        return running if running is not None and running.principal.tenant == principal.tenant else None

    async def _kept(self, response_id: str, principal: Principal) -> KeptResponse:
        kept = await self._find(response_id, principal)
        if kept is None:
            raise ApiError(
                404, f"no response {response_id!a} is kept here", param="response_id", code="not_found"
            )
        return kept

    async def _find(self, response_id: str, principal: Principal) -> KeptResponse | None:
        if not _ID.fullmatch(response_id):
            return None
        return await asyncio.to_thread(self._table.find, response_id, tenant=principal.tenant)


class Response:
    """One under way. Whoever began it reads `events` or awaits `complete`, and calls `close` in any case."""

    def __init__(
        self, all_: Responses, body: ResponseRequest, turn: Turn, said: list[Message], principal: Principal
    ) -> None:
        self._all = all_
        self.body, self.turn, self.said, self.principal = body, turn, said, principal
        self.items = body.items()
        self.writer = ResponseWriter(turn.generation.exchange.id, body, model=turn.served.name)
        self.ended = asyncio.Event()

    def kept(self, body: Mapping[str, Any], *, beat: float | None = None) -> KeptResponse:
        """Args: body: itself, as it is to be kept. beat: of one that has not ended."""
        return KeptResponse(
            id=body["id"], tenant=self.principal.tenant, body=body, input=self.items, beat=beat,
            messages=self.said if beat is not None else [*self.said, self.turn.message()],
        )  # fmt: skip

    async def complete(self) -> dict[str, Any]:
        async for _ in self._told():
            pass
        return self.writer.body

    async def events(self) -> AsyncGenerator[dict[str, str], None]:
        try:
            async with aclosing(self._told()) as events:
                async for event in events:
                    yield _sent(event)
        except Exception as error:  # too late for a status code
            for event in self.writer.fail(stream_error(error, self.writer.body["id"])):
                yield _sent(event)

    async def close(self) -> None:
        self._all.forget(self)
        if self.writer.body["status"] in UNDER_WAY:  # the client went away
            self.writer.body["status"] = "cancelled"
        self.ended.set()
        await self.turn.close()

    async def _told(self) -> AsyncGenerator[Event, None]:
        for event in self.writer.begin():
            yield event
        async with aclosing(self.turn.pieces()) as pieces:
            async for piece in pieces:
                for event in self.writer.push(piece):
                    yield event
        turn = self.turn
        self.writer.body.update(turn.report())
        last = list(self.writer.end(turn.reason, turn.usage, reasoning_tokens=turn.answer.reasoning_tokens))
        await self._all.keep(self)
        self.ended.set()
        for event in last:
            yield event


def _sent(event: Event) -> dict[str, str]:
    return {"event": event["type"], "data": json.dumps(event, ensure_ascii=False)}
