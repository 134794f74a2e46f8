"""Health, numbers for Prometheus and the dashboard, and reading the settings again."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hanok.server.errors import ApiError
from hanok.server.operations.metrics import CONTENT_TYPE
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services


def router(services: Services) -> APIRouter:
    routes, operations = APIRouter(), services.operations

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", response_model=None)
    async def readyz() -> Response:
        problem = operations.problem()
        if problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": problem}, 503, headers={"Retry-After": "2"})

    @routes.get("/metrics", response_model=None)
    async def metrics(request: Request) -> Response:
        check_operator(principal_of(request))
        return Response(operations.metrics.text(), media_type=CONTENT_TYPE)

    @routes.get("/admin/status")
    async def status(request: Request) -> dict[str, Any]:
        check_operator(principal_of(request))
        return operations.report()

    @routes.post("/admin/reload")
    async def reload(request: Request) -> dict[str, list[str]]:
        check_operator(principal_of(request))
        return await asyncio.to_thread(operations.reload)

    return routes


def check_operator(principal: Principal) -> None:
    """Raises ApiError 403 unless it is an administrator of the whole service."""
    if principal.role != "administrator" or principal.tenant != "default":
        raise ApiError(403, "this is for administrators of the service", code="forbidden")
