"""The table of who may do what, and that every route names its line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from hanok.server.identity.roles import EVERYTHING, PERMISSIONS, PUBLIC, ROLES, SCOPES, needed, permissions
from hanok.server.routes import ROUTERS

OWN = {"models:read", "usage:own", "session:own", "audit:own"}


def endpoints(services: Any) -> Iterator[APIRoute]:
    for router in ROUTERS:
        for route in router(services).routes:
            assert isinstance(route, APIRoute), route
            yield route


def test_every_route_says_what_it_needs(house: Any) -> None:
    silent = [route.path for route in endpoints(house.services) if needed(route.endpoint) is None]
    assert silent == []


def test_nothing_is_served_beside_the_routes(house: Any) -> None:
    """What is mounted goes around the table: the page's files alone, and the description of the API."""
    beside = [
        route
        for route in house.app.routes
        if isinstance(route, (Mount, Route)) and not isinstance(route, APIRoute)
    ]
    assert {getattr(route, "path", None) for route in beside} <= {"", "/openapi.json"}


def test_public_routes_are_few(house: Any) -> None:
    public = {route.path for route in endpoints(house.services) if needed(route.endpoint) == PUBLIC}
    assert public <= {
        "/health", "/healthz", "/readyz", "/examples.json", "/console.json", "/session", "/session/setup", "/session/oidc",
        "/session/oidc/callback", "/v1/transparency",
    }  # fmt: skip


def test_the_table() -> None:
    """Written out once more, by hand."""
    may = {role: permissions(role, house=False) for role in ROLES}
    assert may["viewer"] < may["user"] < may["reviewer"] < may["administrator"] < EVERYTHING
    assert "chat:create" not in may["viewer"]
    assert {"chat:create", "embeddings:create", "documents:write", "feedback:create"} <= may["user"]
    assert not {"feedback:read", "feedback:review"} & may["user"]
    assert not {"keys:manage", "users:manage"} & may["reviewer"]
    assert "policy:read" in may["administrator"] - may["reviewer"]
    for only_house in ("tenants:manage", "models:manage", "metrics:read", "service:manage", "policy:manage"):
        assert only_house not in may["administrator"]
        assert only_house in permissions("administrator", house=True)
    assert permissions("reviewer", house=True) == may["reviewer"]


def test_every_permission_belongs_to_a_scope() -> None:
    covered = {one for one in EVERYTHING if any(one.partition(":")[0] in part for part in SCOPES.values())}
    assert EVERYTHING - covered <= OWN
    assert frozenset().union(*PERMISSIONS.values()) <= EVERYTHING


@pytest.mark.parametrize(
    ("scopes", "may", "may_not"),
    [
        ({"chat"}, {"chat:create"}, {"embeddings:create", "keys:manage", "documents:read"}),
        ({"embeddings"}, {"embeddings:create"}, {"chat:create"}),
        ({"admin"}, {"keys:manage", "tenants:manage", "service:manage"}, {"chat:create", "documents:read"}),
        (set(), OWN, {"chat:create", "keys:manage"}),
    ],
)
def test_scopes_cut_a_role_down(scopes: set[str], may: set[str], may_not: set[str]) -> None:
    granted = permissions("administrator", house=True, scopes=frozenset(scopes))
    assert may | OWN <= granted
    assert not may_not & granted
    assert permissions("viewer", house=True, scopes=frozenset(scopes)) <= permissions("viewer", house=True)


ASKED = [
    ("GET", "/v1/models", {"viewer": 200, "user": 200, "administrator": 200}),
    ("POST", "/v1/chat/completions", {"viewer": 403, "user": 400, "administrator": 400}),
    ("POST", "/v1/feedback", {"viewer": 403, "user": 400, "administrator": 400}),
    ("GET", "/admin/keys", {"viewer": 403, "user": 403, "administrator": 200}),
    ("GET", "/admin/users", {"viewer": 403, "user": 403, "administrator": 200}),
    ("DELETE", "/admin/tenants/acme", {"viewer": 403, "user": 403, "administrator": 404}),
]


@pytest.mark.parametrize("role", ["viewer", "user", "administrator"])
def test_routes_ask_the_table(house: Any, role: str) -> None:
    key = house.make_key(role=role)
    for method, path, answers in ASKED:
        body = {"json": {}} if method == "POST" else {}
        assert house.ask(key, method=method, path=path, **body).status_code == answers[role], (path, role)
        assert house.ask(None, method=method, path=path, **body).status_code == 401


def test_a_route_that_says_nothing_is_the_houses_alone(house: Any) -> None:
    async def forgotten() -> dict[str, bool]:
        return {"reached": True}

    house.app.router.add_api_route("/forgotten", forgotten)
    house.app.router.routes.insert(
        0, house.app.router.routes.pop()
    )  # before the page, which is mounted on everything
    house.management.create_tenant("acme")
    assert house.ask(house.make_key(role="administrator"), path="/forgotten").status_code == 200
    for role in ("viewer", "user", "reviewer"):
        assert house.ask(house.make_key(role=role), path="/forgotten").status_code == 403
    assert (
        house.ask(house.make_key(role="administrator", tenant="acme"), path="/forgotten").status_code == 403
    )
    assert house.ask(path="/forgotten").status_code == 401
