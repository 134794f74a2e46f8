"""POST /v1/watermark/detect: whether a model of this house wrote a text.

Whoever could ask without end, and for exact numbers, could learn by trying how to forge the mark. So each caller may ask
`PER_MINUTE` times and is told no more than which of four grades the evidence has; administrators of the house get the numbers.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hanok.guard.watermark import described, detect_any
from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services
from hanok.store.database import Store
from hanok.store.meters import Rate, Take, take_rates

PER_MINUTE = Rate(per_minute=6, burst=6)
_MOST_CHARACTERS = 200_000


class DetectRequest(BaseModel):
    """`model`: that may have written the text; its tokeniser reads it."""

    text: Annotated[str, Field(min_length=1, max_length=_MOST_CHARACTERS)]
    model: str | None = None


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["watermark"])

    @routes.post("/v1/watermark/detect")
    @needs("watermark:detect")
    async def detect(body: DetectRequest, request: Request) -> dict[str, Any]:
        """`verdict`: "marked", "not marked" or "too short"; `evidence`: how much there is."""
        principal = principal_of(request)
        await asyncio.to_thread(_take_turn, services.store, principal)
        name = body.model or services.models.default_name
        async with services.models.use(name, principal) as served:
            ids = await asyncio.to_thread(served.engine.tokenizer.encode, body.text)
        watermarks = [] if services.watermarks is None else await asyncio.to_thread(services.watermarks.all)
        if not watermarks:
            raise ApiError(404, "this deployment has never marked anything", code="no_watermark")
        found = await asyncio.to_thread(detect_any, ids, watermarks)
        answer = {"object": "watermark.detection", "model": name, **described(found)}
        facts = {"verdict": answer["verdict"], "evidence": answer["evidence"], "tokens": found.whole.tested}
        services.directory.trail.tell("watermark.detect", target=name, facts=facts)
        return {**answer, "numbers": asdict(found)} if principal.runs_house else answer

    return routes


def _take_turn(store: Store, principal: Principal) -> None:
    """Raises ApiError 429."""
    wait = take_rates(store, [Take(f"watermark {principal.tenant} {principal.id}", PER_MINUTE, 1.0)])
    if wait is not None:
        raise ApiError(
            429, "too many texts in a minute", code="rate_limit_exceeded", headers={"Retry-After": str(round(wait) + 1)}
        )  # fmt: skip
