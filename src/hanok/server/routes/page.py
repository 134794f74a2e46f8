"""What the console asks for beside the API, and health."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request

from hanok import __version__
from hanok.server.identity.roles import PUBLIC, needs
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services

FEATURES: Mapping[str, tuple[str, str]] = {
    "session": ("/session", PUBLIC),
    "conversations": ("/console/conversations", "conversations:own"),
    "presets": ("/console/presets", "conversations:own"),
    "feedback": ("/v1/feedback", "feedback:create"),
    "documents": ("/v1/vector_stores", "documents:write"),
    "reports": ("/console/reports", "reports:read"),
    "usage": ("/v1/usage", "usage:own"),
    "all_usage": ("/admin/usage", "usage:read"),
    "keys": ("/admin/keys", "keys:manage"),
    "people": ("/admin/users", "users:manage"),
    "models": ("/admin/models/{model:path}/load", "models:manage"),
    "dashboard": ("/admin/status", "metrics:read"),
    "audit": ("/v1/audit", "audit:read"),
    "policy": ("/admin/policy", "policy:read"),
    "reviews": ("/v1/reviews", "feedback:read"),
    "review": ("/v1/reviews/next", "feedback:review"),
    "appeals": ("/v1/appeals", "feedback:create"),
    "canaries": ("/admin/canaries", "models:manage"),
}
"""View or part of one -> the route that it needs, and what one must be allowed."""


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

    @routes.get("/console.json")
    @needs(PUBLIC)
    async def console(request: Request) -> dict[str, Any]:
        """What the console may show to whoever asks."""
        principal, kept = principal_of(request), services.directory.trail.server_log is not None
        features = _features(request.app.state.paths, principal)
        return {
            "version": __version__,
            "me": {
                "id": principal.id,
                "name": principal.name,
                "tenant": principal.tenant,
                "role": principal.role,
            },
            "runs_house": principal.runs_house,
            "features": sorted(one for one in features if kept or one != "audit"),
        }

    return routes


def _features(paths: Container[str], principal: Principal) -> Iterable[str]:
    return (
        name
        for name, (path, permission) in FEATURES.items()
        if path in paths and (permission == PUBLIC or principal.may(permission))
    )
