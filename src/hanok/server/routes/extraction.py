"""Who may be copying a model, for reviewers: /admin/extraction."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hanok.errors import NotFoundError
from hanok.server.errors import ApiError
from hanok.server.identity.reach import reach
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.protection.monitor import Monitor
from hanok.server.routes.reviews import desk_of
from hanok.server.services import Services
from hanok.store.extraction import Caller


class Cleared(BaseModel):
    """`reason`: why the caller is no copier, for the audit."""

    tenant: Annotated[str, Field(max_length=64)] = ""
    reason: Annotated[str, Field(min_length=3, max_length=1000)]


def router(services: Services) -> APIRouter:
    routes, trail = APIRouter(tags=["extraction"]), services.directory.trail
    desk = desk_of(services)

    def monitor() -> Monitor:
        if services.monitor is None:
            raise NotFoundError("this server does not watch for extraction")
        return services.monitor

    @routes.get("/admin/extraction")
    @needs("audit:read")
    async def suspects(request: Request) -> dict[str, Any]:
        """The most suspected first, with what they asked for in the last hour, day and 30 days."""
        tenant = reach(principal_of(request), None)
        return {"object": "list", "data": await asyncio.to_thread(monitor().list, tenant=tenant)}

    @routes.post("/admin/extraction/{owner}/clear")
    @needs("feedback:review")
    async def clear(owner: str, body: Cleared, request: Request) -> dict[str, Any]:
        """A person has looked: the caller is off the ladder, and begins anew. Where it waits in the review queue this decides
        that item, and `cleared` is false as long as another person must agree."""
        principal = principal_of(request)
        if owner == principal.id:
            raise ApiError(403, "somebody else has to look", code="own_item")
        tenant = reach(principal, body.tenant or None) or principal.tenant
        item = await asyncio.to_thread(desk.reviews.waiting_of, "extraction", tenant=tenant, owner=owner)
        if item is not None:
            done = await asyncio.to_thread(desk.decide, item.id, principal, "reject", body.reason)
            return {"id": owner, "tenant": tenant, "cleared": done["state"] == "decided", "review": item.id}
        await asyncio.to_thread(trail.ready)
        if not await asyncio.to_thread(monitor().clear, Caller(owner=owner, tenant=tenant)):
            raise NotFoundError(f'nothing is known of "{owner}" in {tenant}')
        await asyncio.to_thread(
            trail.sure, "extraction.cleared", target=owner, tenant=tenant, actor=principal.id,
            content={"reason": body.reason}, subject=owner,
        )  # fmt: skip
        return {"id": owner, "tenant": tenant, "cleared": True}

    return routes
