"""GET /v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services


def router(services: Services) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v1/models")
    @needs("models:read")
    async def models(request: Request) -> dict[str, Any]:
        names = services.models.names(principal_of(request))
        return {"object": "list", "data": [services.models.describe(name) for name in names]}

    @routes.get("/v1/models/{model:path}")
    @needs("models:read")
    async def model(model: str, request: Request) -> dict[str, Any]:
        return services.models.describe(services.models.find(model, principal_of(request)).name)

    return routes
