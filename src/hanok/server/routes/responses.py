"""/v1/responses: begin one, read, cancel and delete those that are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from fastapi.responses import Response as HttpResponse

from hanok.server.body_route import BodyRoute
from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.response_schema import ResponseRequest
from hanok.server.responses import Responses
from hanok.server.services import Services
from hanok.server.streams import EventStream, unless_disconnected

ResponseId = Annotated[str, Path(max_length=200)]


def router(services: Services) -> APIRouter:
    routes, all_ = APIRouter(tags=["generation"], route_class=BodyRoute), Responses(services)

    @routes.post("/v1/responses", response_model=None)
    @needs("chat:create")
    async def create(body: ResponseRequest, request: Request) -> HttpResponse:
        """Answer, in items; at once where that is done in the background."""
        response = await all_.begin(body, principal_of(request))
        if body.background:
            return JSONResponse(await all_.background.take(response))
        if body.stream:
            return EventStream(response.events(), response.close)
        try:
            done = await unless_disconnected(request, response.complete())
        finally:
            await response.close()
        return JSONResponse(done) if done is not None else HttpResponse(status_code=499)

    @routes.post("/v1/responses/input_tokens")
    @needs("chat:create")
    async def input_tokens(body: ResponseRequest, request: Request) -> dict[str, Any]:
        """How many tokens the model would read; nothing is answered."""
        count = await all_.count(body, principal_of(request))
        return {"object": "response.input_tokens", "input_tokens": count}

    @routes.get("/v1/responses/{response_id}")
    @needs("chat:create")
    async def read(
        response_id: ResponseId, request: Request, stream: Annotated[bool, Query()] = False
    ) -> dict[str, Any]:
        """One that was kept, or that is under way, as far as it is."""
        if stream:
            raise ApiError(
                400,
                "a response that was begun elsewhere cannot be streamed: ask without stream",
                param="stream",
            )
        return await all_.get(response_id, principal_of(request))

    @routes.get("/v1/responses/{response_id}/input_items")
    @needs("chat:create")
    async def input_items(
        response_id: ResponseId, request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc", after: Annotated[str | None, Query(max_length=200)] = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What was given to it, without the responses before it."""
        items = await all_.items(response_id, principal_of(request))
        if order == "desc":
            items.reverse()
        if after is not None:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            if not places:
                raise ApiError(404, "no such item in this response", param="after", code="not_found")
            items = items[places[0] + 1 :]
        page = items[:limit]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return {
            "object": "list",
            "data": page,
            "first_id": first,
            "last_id": last,
            "has_more": len(items) > limit,
        }

    @routes.delete("/v1/responses/{response_id}")
    @needs("chat:create")
    async def delete(response_id: ResponseId, request: Request) -> dict[str, Any]:
        """Forget it. Responses that went on from it have its conversation in them."""
        await all_.delete(response_id, principal_of(request))
        return {"id": response_id, "object": "response", "deleted": True}

    @routes.post("/v1/responses/{response_id}/cancel")
    @needs("chat:create")
    async def cancel(response_id: ResponseId, request: Request) -> dict[str, Any]:
        """End one that is under way."""
        return await all_.cancel(response_id, principal_of(request))

    return routes
