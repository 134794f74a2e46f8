"""What users may know: /v1/transparency, the card of each model, and what was decided about their own requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from hanok.server.errors import ApiError
from hanok.server.identity.roles import PUBLIC, needs
from hanok.server.principal import principal_of
from hanok.server.protection.transparency import HEADER, LABELS, LAW, card_of, notice_of
from hanok.server.services import Services
from hanok.store.audit.log import AuditLog
from hanok.store.audit.reader import Reader, Wanted

_PIECE = 500  # entries
_DECISION = (
    "rule",
    "action",
    "direction",
    "where",
    "span",
    "reason",
    "count",
    "model",
    "route",
    "status",
    "failure",
)


def router(services: Services) -> APIRouter:
    routes, trail = APIRouter(tags=["transparency"]), services.directory.trail

    @routes.get("/v1/transparency")
    @needs(PUBLIC)
    async def transparency(request: Request) -> dict[str, Any]:
        """That a generative AI answers here; for whoever asks, before they use it."""
        policy = services.guard.protection_of(principal_of(request).tenant)
        return {
            "object": "transparency", "generative_ai": True, "notice": notice_of(policy.transparency), "label": LABELS,
            "header": HEADER, "law": LAW, "contact": policy.transparency.contact or None,
            "watermark": policy.watermark.enabled, "model_cards": "/v1/transparency/models/{model}",
            "decisions": "/v1/audit/mine",
        }  # fmt: skip

    @routes.get("/v1/transparency/models/{model:path}")
    @needs("models:read")
    async def card(model: str, request: Request) -> dict[str, Any]:
        """The model's card and where it comes from, as its own files have them."""
        served = services.models.find(model, principal_of(request))
        directory = services.models.directory_of(model)
        found = await asyncio.to_thread(card_of, directory, directory.parent if services.run else None)
        return {"object": "model.card", "model": served.name, "answers_as": served.hash, **found}

    @routes.get("/v1/audit/mine")
    @needs("audit:own")
    async def mine(
        request: Request, kind: Literal["verdict", "request"] = "verdict",
        before: Annotated[int | None, Query(ge=0, le=2**53)] = None, limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:  # fmt: skip
        """What the guard decided about one's own requests: which rule, what it did, where and why. Newest first. What a silent
        rule only flags is left out."""
        log, principal = trail.server_log, principal_of(request)
        if log is None:
            raise ApiError(404, "this server keeps no audit", code="not_found")
        wanted = Wanted(kind=kind, tenant=principal.tenant, actor=principal.id, before=before)
        tells = services.guard.of(principal.tenant).tells
        rows = await asyncio.to_thread(_read, log, wanted, limit + 1, lambda row: _told(row["facts"], tells))
        page = rows[:limit]
        more = len(rows) > limit
        return {
            "object": "list", "has_more": more, "next": page[-1]["sequence"] if more else None,
            "data": [
                {"sequence": row["sequence"], "time": row["time"], "kind": row["kind"], "request": row["request"],
                 "of": row["target"], **{name: row["facts"][name] for name in _DECISION if name in row["facts"]}}
                for row in page
            ],
        }  # fmt: skip

    return routes


def _read(
    log: AuditLog, wanted: Wanted, limit: int, may_see: Callable[[Mapping[str, Any]], bool]
) -> list[dict[str, Any]]:
    """The newest so many that may be seen."""
    found: list[dict[str, Any]] = []
    with Reader(log.place) as reader:
        while len(found) < limit and (page := reader.list(wanted, limit=_PIECE)):
            found += filter(may_see, page)
            wanted = replace(wanted, before=page[-1]["sequence"])
    return found[:limit]


def _told(facts: Mapping[str, Any], tells: Callable[[str, str], bool]) -> bool:
    """Whether whoever asked heard of it; of entries that do not say so, whether they would now."""
    return facts["told"] if "told" in facts else "rule" not in facts or tells(facts["rule"], facts["action"])
