"""What was used: /admin/usage for administrators, /v1/usage for whoever asks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from hanok.server.errors import ApiError
from hanok.server.identity.reach import reach
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.store.usage import read_usage, total

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
First = Annotated[str | None, Query(alias="from", max_length=10)]
Last = Annotated[str | None, Query(alias="to", max_length=10)]
By = Annotated[str, Query(max_length=40)]
Name = Annotated[str | None, Query(max_length=200)]


def router(services: Services) -> APIRouter:
    routes = APIRouter()

    async def read(
        by: str, first: str | None, last: str | None, only: Mapping[str, str | None]
    ) -> dict[str, Any]:
        for day in (first, last):
            if day is not None and not _DAY.fullmatch(day):
                raise ApiError(400, f'"{day}" is no day as 2026-11-21', param="from")
        groups = [name.strip() for name in by.split(",") if name.strip()]
        rows = await asyncio.to_thread(read_usage, services.store, by=groups, first=first, last=last, **only)
        return {"object": "usage", "by": groups, "data": rows, "total": total(rows)}

    @routes.get("/admin/usage")
    @needs("usage:read")
    async def usage(
        request: Request, first: First = None, last: Last = None, by: By = "day", tenant: Name = None, key: Name = None,
        model: Name = None,
    ) -> dict[str, Any]:  # fmt: skip
        wanted = reach(principal_of(request), tenant)
        return await read(by, first, last, {"tenant": wanted, "key": key, "model": model})

    @routes.get("/v1/usage")
    @needs("usage:own")
    async def own_usage(
        request: Request, first: First = None, last: Last = None, by: By = "day", model: Name = None
    ) -> dict[str, Any]:
        principal = principal_of(request)
        found = await read(by, first, last, {"tenant": principal.tenant, "key": principal.id, "model": model})
        return {**found, "limits": list(await asyncio.to_thread(services.admission.describe, principal))}

    return routes
