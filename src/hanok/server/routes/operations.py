"""Health, numbers for Prometheus and the dashboard, and reading the settings again."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from hanok.server.identity.roles import PUBLIC, needs
from hanok.server.operations.metrics import CONTENT_TYPE
from hanok.server.services import Services


def router(services: Services) -> APIRouter:
    routes, operations = APIRouter(), services.operations

    @routes.get("/healthz")
    @needs(PUBLIC)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", response_model=None)
    @needs(PUBLIC)
    async def readyz() -> Response:
        problem = operations.problem()
        if problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": problem}, 503, headers={"Retry-After": "2"})

    @routes.get("/metrics", response_model=None)
    @needs("metrics:read")
    async def metrics() -> Response:
        return Response(operations.metrics.text(), media_type=CONTENT_TYPE)

    @routes.get("/admin/status")
    @needs("metrics:read")
    async def status() -> dict[str, Any]:
        return operations.report()

    @routes.post("/admin/reload")
    @needs("service:manage")
    async def reload() -> dict[str, list[str]]:
        services.directory.trail.ready()
        return await asyncio.to_thread(operations.reload)

    return routes
