"""What the page asks for beside the API, and health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter

from hanok.server.identity.roles import PUBLIC, needs
from hanok.server.services import Services


def router(services: Services) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health")
    @needs(PUBLIC)
    async def health() -> dict[str, str]:
        model = services.models.default
        return {"status": "ok", "model": model.name, "model_hash": model.hash}

    @routes.get("/examples.json")
    @needs(PUBLIC)
    async def example_list() -> Mapping[str, Sequence[str]]:
        return services.examples

    return routes
