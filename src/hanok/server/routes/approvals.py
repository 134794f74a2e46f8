"""POST /console/approvals: what a person decided on a call that the guard wants a person to be asked about."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.store.database import Answered


class Decision(BaseModel):
    """`call`: the id that the answer gave it."""

    model_config = ConfigDict(extra="forbid")
    request_id: Annotated[str, Field(max_length=64)]
    call: Annotated[str, Field(max_length=100)]
    approved: bool


def router(services: Services) -> APIRouter:
    routes, trail = APIRouter(tags=["guard"]), services.directory.trail

    @routes.post("/console/approvals")
    @needs("chat:create")
    async def decide(body: Decision, request: Request) -> dict[str, Any]:
        """It is in the audit when this answers: the call may be made then, or not."""
        principal = principal_of(request)
        answered = await asyncio.to_thread(
            services.store.find_request, body.request_id, tenant=principal.tenant
        )
        if (
            answered is not None
            and answered.owner not in ("", principal.id)
            and principal.role != "administrator"
        ):
            answered = None
        call = None if answered is None else _waiting(answered, body.call)
        if call is None:
            raise ApiError(404, "no such call waits for a person", param="call", code="not_found")
        facts = {"call": body.call, "rule": call["approval"]["rule"]}
        kind = "call.approved" if body.approved else "call.refused"
        await asyncio.to_thread(trail.sure, kind, target=body.request_id, facts=facts)
        return {"object": "approval", **body.model_dump()}

    return routes


def _waiting(answered: Answered, identifier: str) -> Mapping[str, Any] | None:
    calls = (call for answer in answered.answers for call in answer.get("tool_calls") or ())
    return next((call for call in calls if call["id"] == identifier and "approval" in call), None)
