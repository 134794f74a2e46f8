"""Keys, people and tenants as JSON: without digests and passwords."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from hanok.store.access import Key, Tenant, User


def key_object(key: Key) -> dict[str, Any]:
    values = asdict(key)
    del values["digest"]
    return {"object": "key", **values}


def user_object(user: User) -> dict[str, Any]:
    values = asdict(user)
    for name in ("password", "issuer", "subject"):
        del values[name]
    return {"object": "user", **values, "oidc": user.issuer is not None}


def tenant_object(tenant: Tenant) -> dict[str, Any]:
    return {"object": "tenant", **asdict(tenant)}


def listed(objects: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(objects)}
