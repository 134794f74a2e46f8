"""What the console asks for beside the API, and health."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request

from hanok import __version__
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services

_EVERYBODY = ("viewer", "user", "reviewer", "administrator")
_USERS = _EVERYBODY[1:]
FEATURES: Mapping[str, tuple[str, Sequence[str]]] = {
    "session": ("/session", _EVERYBODY),
    "conversations": ("/console/conversations", _USERS),
    "presets": ("/console/presets", _USERS),
    "feedback": ("/v1/feedback", _USERS),
    "files": ("/v1/vector_stores", _USERS),
    "reports": ("/console/reports", _EVERYBODY),
    "usage": ("/v1/usage", _EVERYBODY),
    "all_usage": ("/admin/usage", ("administrator",)),
    "keys": ("/admin/keys", ("administrator",)),
    "people": ("/admin/users", ("administrator",)),
    "dashboard": ("/admin/status", ("administrator",)),
}
"""View or part of one -> the route that it needs, and the roles that may use it."""


def router(services: Services) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        model = services.models.default
        return {"status": "ok", "model": model.name, "model_hash": model.hash}

    @routes.get("/examples.json")
    async def example_list() -> Mapping[str, Sequence[str]]:
        return services.examples

    @routes.get("/console.json")
    async def console(request: Request) -> dict[str, Any]:
        """What the console may show to whoever asks."""
        principal = principal_of(request)
        return {
            "version": __version__,
            "me": {"id": principal.id, "tenant": principal.tenant, "role": principal.role},
            "decoding_heads": any(engine.has_heads for engine in services.models.engines.values()),
            "features": sorted(_features(request.app.openapi()["paths"], principal)),
        }

    return routes


def _features(paths: Container[str], principal: Principal) -> Iterable[str]:
    return (name for name, (path, roles) in FEATURES.items() if path in paths and principal.role in roles)
