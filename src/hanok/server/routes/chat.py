"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hanok.server.asking import conversation_of
from hanok.server.body_route import BodyRoute
from hanok.server.chat import Chat, Message
from hanok.server.errors import ApiError
from hanok.server.grounding import grounded_in, refuse
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.schema import ChatRequest
from hanok.server.services import Services
from hanok.server.streams import EventStream, unless_disconnected
from hanok.store.database import Answered


def router(services: Services) -> APIRouter:
    routes = APIRouter(route_class=BodyRoute)

    async def keep(chat: Chat, answers: list[Message]) -> None:
        if chat.body.store is not False:
            answered = Answered(
                request_id=chat.id,
                model_hash=chat.served.hash,
                messages=chat.messages,
                answers=answers,
                tools=chat.tools,
                tenant=chat.tenant,
                owner=chat.owner,
            )
            await asyncio.to_thread(services.store.record_request, answered)

    @routes.post("/v1/chat/completions", response_model=None)
    @needs("chat:create")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        principal, grounded = principal_of(request), None
        conversation = conversation_of(body, principal)  # before passages are put in
        if body.documents is not None:
            if not principal.may("documents:read"):
                raise ApiError(
                    403, '"documents:read" is not allowed here', param="documents", code="permission_denied"
                )
            body, grounded = await grounded_in(services, body, body.documents, principal)
            if grounded.refusal is not None:
                return await refuse(services, body, principal, grounded)
        chat = await Chat.begin(
            services, body, principal, keep=keep, grounded=grounded, conversation=conversation
        )
        if body.stream:
            return EventStream(chat.events(), chat.close)
        try:
            done = await unless_disconnected(request, chat.complete())
        finally:
            await chat.close()
        return JSONResponse(done) if done is not None else Response(status_code=499)

    return routes
