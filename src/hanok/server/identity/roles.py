"""Who may do what: one table, and a mark on each route's function that names the line it needs.

A permission is `resource:action`. What is not in the table is refused, and so is a route that names nothing, to all but the
house's administrators. The mark lies on the function that answers, so no spelling of a path can go around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hanok.errors import ConfigError, did_you_mean

PUBLIC = "public"  # of a route that anybody may call

_VIEWER = {"models:read", "reports:read", "usage:own", "session:own", "audit:own"}
_USER = _VIEWER | {
    "chat:create", "embeddings:create", "moderations:create", "documents:read", "documents:write", "feedback:create",
    "conversations:own", "watermark:detect",
}  # fmt: skip
_REVIEWER = _USER | {"feedback:read", "feedback:review", "audit:read"}
_ADMINISTRATOR = _REVIEWER | {"keys:manage", "users:manage", "usage:read", "tenants:read", "policy:read"}
_HOUSE = {"tenants:manage", "models:manage", "metrics:read", "service:manage", "policy:manage"}

PERMISSIONS: Mapping[str, frozenset[str]] = {
    "viewer": frozenset(_VIEWER),
    "user": frozenset(_USER),
    "reviewer": frozenset(_REVIEWER),
    "administrator": frozenset(_ADMINISTRATOR),
}
ROLES = tuple(PERMISSIONS)
EVERYTHING = frozenset(_ADMINISTRATOR | _HOUSE)

# scope of a key -> resources
SCOPES: Mapping[str, frozenset[str]] = {
    "chat": frozenset({"chat", "conversations", "moderations"}),
    "embeddings": frozenset({"embeddings"}),
    "moderations": frozenset({"moderations"}),
    "documents": frozenset({"documents"}),
    "feedback": frozenset({"feedback"}),
    "usage": frozenset({"usage"}),
    "reports": frozenset({"reports"}),
    "watermark": frozenset({"watermark"}),
    "metrics": frozenset({"metrics"}),
    "audit": frozenset({"audit"}),
    "admin": frozenset({"keys", "users", "tenants", "models", "service", "usage", "policy"}),
}
_ALWAYS = frozenset({"models:read", "usage:own", "session:own", "audit:own"})  # whatever the scopes


def permissions(role: str, *, house: bool, scopes: frozenset[str] | None = None) -> frozenset[str]:
    """Of a role.

    Args:
        house: in the tenant that runs the server, whose administrators manage it.
        scopes: then only what belongs to one of these.
    """
    granted = EVERYTHING if role == "administrator" and house else PERMISSIONS[role]
    if scopes is None:
        return granted
    resources = frozenset().union(*(SCOPES[scope] for scope in scopes))
    return frozenset(one for one in granted if one in _ALWAYS or one.partition(":")[0] in resources)


def check_role(role: str) -> str:
    if role not in PERMISSIONS:
        raise ConfigError(f'no role "{role}"', remedy=did_you_mean(role, ROLES))
    return role


def check_scopes(scopes: Any) -> None:
    for scope in scopes or ():
        if scope not in SCOPES:
            raise ConfigError(f'no scope "{scope}"', remedy=did_you_mean(scope, SCOPES))


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def needs(permission: str) -> Callable[[Endpoint], Endpoint]:
    """Marks a route's function: `@routes.get(...)` above, `@needs("chat:create")` below, or `@needs(PUBLIC)`."""
    assert permission == PUBLIC or permission in EVERYTHING, permission

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.hanok_needs = permission  # type: ignore[attr-defined]
        return endpoint

    return mark


def needed(endpoint: Any) -> str | None:
    return getattr(endpoint, "hanok_needs", None)
