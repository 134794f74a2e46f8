"""POST /v1/feedback: what somebody thought of an answer."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.principal import Principal, principal_of
from hanok.server.schema import FeedbackRequest
from hanok.server.services import Services
from hanok.store.database import Feedback, Store


def router(services: Services) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/feedback", status_code=201)
    @needs("feedback:create")
    async def feedback(body: FeedbackRequest, request: Request) -> dict[str, str]:
        reviewers = services.operations.settings.reviewers
        identifier = await asyncio.to_thread(
            _add_feedback, services.store, body, principal_of(request), reviewers
        )
        facts = {"of": body.request_id, "rating": body.rating, "corrected": body.correction is not None}
        services.directory.trail.tell("feedback.create", target=identifier, facts=facts)
        return {"id": identifier, "object": "feedback"}

    return routes


def _add_feedback(store: Store, body: FeedbackRequest, principal: Principal, reviewers: int) -> str:
    answered = store.find_request(body.request_id, tenant=principal.tenant)
    if answered is None:
        raise ApiError(
            404, f'no request "{body.request_id}" was answered here', param="request_id", code="not_found"
        )
    if body.choice >= len(answered.answers):
        raise ApiError(400, f"choice = {body.choice} of {len(answered.answers)} answers", param="choice")
    return store.add_feedback(
        Feedback(
            request_id=answered.request_id, model_hash=answered.model_hash, tools=answered.tools,
            messages=[*answered.messages, answered.answers[body.choice]],
            rating=body.rating, correction=body.correction, reason=body.reason, user=body.user or _name(principal),
            tenant=principal.tenant, owner=principal.id,
        ),
        reviewers=reviewers,
    )  # fmt: skip


def _name(principal: Principal) -> str:
    return "" if principal.kind == "local" else principal.name
