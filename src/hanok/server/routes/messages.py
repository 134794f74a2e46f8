"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API over the same generation."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hanok.server.anthropic import Answer, CountRequest, MessagesRequest
from hanok.server.asking import Turn, ask, count_prompt
from hanok.server.body_route import BodyRoute
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.server.streams import EventStream, unless_disconnected


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["generation"], route_class=BodyRoute)

    @routes.post("/v1/messages", response_model=None)
    @needs("chat:create")
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """Answer, in content blocks."""
        name = f"msg_{uuid.uuid4().hex}"
        asked = await ask(
            services,
            body.full_chat(),
            principal_of(request),
            name=name,
            route="messages",
            streamed=body.stream,
            continues=body.continues,
        )
        answer = Answer(body, Turn(asked))
        if body.stream:
            return EventStream(answer.events(), answer.close)
        try:
            done = await unless_disconnected(request, answer.complete())
        finally:
            await answer.close()
        return JSONResponse(done) if done is not None else Response(status_code=499)

    @routes.post("/v1/messages/count_tokens")
    @needs("chat:create")
    async def count_tokens(body: CountRequest, request: Request) -> dict[str, int]:
        """How many tokens the prompt has."""
        counted = await count_prompt(services, body.chat(), principal_of(request), continues=body.continues)
        return {"input_tokens": counted}

    return routes
