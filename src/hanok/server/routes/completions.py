"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hanok.server.body_route import BodyRoute
from hanok.server.completions import Completions
from hanok.server.identity.roles import needs
from hanok.server.legacy import CompletionRequest
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.server.streams import EventStream, unless_disconnected


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["generation"], route_class=BodyRoute)

    @routes.post("/v1/completions", response_model=None)
    @needs("chat:create")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text, given as text or token ids."""
        work = await Completions.begin(services, body, principal_of(request))
        if body.stream:
            return EventStream(work.events(), work.close)
        try:
            done = await unless_disconnected(request, work.complete())
        finally:
            await work.close()
        return JSONResponse(done) if done is not None else Response(status_code=499)

    return routes
