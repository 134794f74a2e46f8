"""/v1/reviews, for reviewers: what waits, taking and deciding it. /v1/appeals, for those whose rows they are."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hanok.server.auditing.reviews import AuditedReviews
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.reviewing.desk import LEASE_SECONDS, Desk
from hanok.server.services import Services
from hanok.store.extraction import Caller
from hanok.store.review.items import Item

Name = Annotated[str | None, Query(max_length=64)]
Kind = Literal["feedback", "flag", "poison", "extraction"]
State = Literal["open", "assigned", "appealed", "decided"]
Seconds = Annotated[float, Field(ge=60, le=86_400)]
Words = Annotated[str, Field(min_length=1, max_length=2_000, pattern=r"\S")]


class Taking(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seconds: Seconds = LEASE_SECONDS
    to: Annotated[str, Field(max_length=64)] | None = None


class Next(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Kind | None = None
    seconds: Seconds = LEASE_SECONDS


class Deciding(BaseModel):
    model_config = ConfigDict(extra="forbid")
    verdict: Literal["accept", "correct", "reject"]
    reason: Words
    correction: Annotated[str, Field(max_length=20_000)] | None = None


class BatchDeciding(BaseModel):
    model_config = ConfigDict(extra="forbid")
    verdict: Literal["accept", "reject"]
    reason: Words


class Appealing(BaseModel):
    """`request_id`: of an answer, or the x-request-id of a request that was refused."""

    model_config = ConfigDict(extra="forbid")
    item: Annotated[str, Field(max_length=64)] | None = None
    request_id: Annotated[str, Field(max_length=64)] | None = None
    statement: Words

    @model_validator(mode="after")
    def _names_one(self) -> Appealing:
        if (self.item is None) == (self.request_id is None):
            raise ValueError("name either the item or the request_id")
        return self


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["review"])
    desk = desk_of(services)
    _add_reading(routes, desk)
    _add_deciding(routes, desk)
    _add_appeals(routes, desk)
    return routes


def desk_of(services: Services) -> Desk:
    def decided(item: Item) -> None:
        if item.kind == "extraction" and services.monitor is not None:
            services.monitor.forget(Caller(owner=item.owner, tenant=item.tenant))

    return Desk(
        AuditedReviews(services.store, services.directory.trail), services.directory.access, decided=decided,
        tells=lambda tenant, rule, action: services.guard.of(tenant).tells(rule, action),
    )  # fmt: skip


def _add_reading(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/v1/reviews")
    @needs("feedback:read")
    async def items(
        request: Request, state: Annotated[list[State] | None, Query()] = None, kind: Kind | None = None, batch: Name = None,
        tenant: Name = None, mine: bool = False, after: Name = None, limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, Any]:  # fmt: skip
        """Oldest first; `next` goes into `after` for the page behind."""
        return await asyncio.to_thread(
            desk.page, principal_of(request), tenant=tenant, states=state or (), kind=kind, batch=batch, mine=mine,
            after=after, limit=limit,
        )  # fmt: skip

    @routes.get("/v1/reviews/summary")
    @needs("feedback:read")
    async def summary(request: Request, tenant: Name = None) -> dict[str, Any]:
        """How much waits."""
        return await asyncio.to_thread(desk.summary, principal_of(request), tenant)

    @routes.get("/v1/reviews/agreement")
    @needs("feedback:read")
    async def agreed(request: Request, kind: Kind | None = None, tenant: Name = None) -> dict[str, Any]:
        """How far reviewers agree, where several decided the same."""
        return await asyncio.to_thread(desk.agreement, principal_of(request), tenant, kind)

    @routes.get("/v1/reviews/{identifier}")
    @needs("feedback:read")
    async def one(identifier: str, request: Request) -> dict[str, Any]:
        """One, with what was said and what was decided."""
        return await asyncio.to_thread(desk.detail, identifier, principal_of(request))


def _add_deciding(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/v1/reviews/next")
    @needs("feedback:review")
    async def take_next(request: Request, body: Next | None = None) -> dict[str, Any]:
        """The next that I may decide, assigned to me: appeals first, then by age."""
        wanted = body or Next()
        return await asyncio.to_thread(
            desk.take_next, principal_of(request), kind=wanted.kind, seconds=wanted.seconds
        )

    @routes.post("/v1/reviews/{identifier}/assign")
    @needs("feedback:review")
    async def assign(identifier: str, request: Request, body: Taking | None = None) -> dict[str, Any]:
        """To me, or by an administrator to another, for some time: nobody else may decide it until then."""
        wanted = body or Taking()
        return await asyncio.to_thread(
            desk.assign, identifier, principal_of(request), seconds=wanted.seconds, to=wanted.to
        )

    @routes.delete("/v1/reviews/{identifier}/assign")
    @needs("feedback:review")
    async def give_back(identifier: str, request: Request) -> dict[str, Any]:
        """Others may have it."""
        return await asyncio.to_thread(desk.give_back, identifier, principal_of(request))

    @routes.post("/v1/reviews/batches/{batch}/decide")
    @needs("feedback:review")
    async def decide_batch(batch: str, body: BatchDeciding, request: Request) -> dict[str, Any]:
        """All rows that a check stopped together, as far as I may decide them."""
        return await asyncio.to_thread(
            desk.decide_batch, batch, principal_of(request), body.verdict, body.reason
        )

    @routes.post("/v1/reviews/{identifier}/decide")
    @needs("feedback:review")
    async def decide(identifier: str, body: Deciding, request: Request) -> dict[str, Any]:
        """With a reason, which whoever's row it is may read."""
        return await asyncio.to_thread(
            desk.decide, identifier, principal_of(request), body.verdict, body.reason, body.correction
        )


def _add_appeals(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/v1/appeals")
    @needs("feedback:create")
    async def appeals(request: Request) -> dict[str, Any]:
        """My feedback and my requests that were flagged, newest first: what was decided, and whether I may appeal."""
        return await asyncio.to_thread(desk.own, principal_of(request))

    @routes.post("/v1/appeals", status_code=201)
    @needs("feedback:create")
    async def appeal(body: Appealing, request: Request) -> dict[str, Any]:
        """Against a rejection, or against the guard."""
        return await asyncio.to_thread(
            desk.appeal, principal_of(request), body.statement, item=body.item, request_id=body.request_id
        )
