"""Keys, for administrators: /admin/keys."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from hanok.server.errors import ApiError
from hanok.server.identity.giving import allowance
from hanok.server.identity.objects import key_object, listed
from hanok.server.identity.reach import reach, within_reach
from hanok.server.identity.roles import needs
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services
from hanok.store.access import Key

Words = list[str] | None


class KeyChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(default="", max_length=200)
    role: str = "user"
    scopes: Words = None
    models: Words = None
    origins: Words = None
    networks: Words = None
    expires: float | None = Field(default=None, allow_inf_nan=False)
    priority: int = 0
    limits: dict[str, float | None] | None = None

    def given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.model_fields_set if name != "tenant"}
        return {**values, **({"limits": values["limits"] or {}} if "limits" in values else {})}


class NewKey(KeyChange):
    name: str = Field(max_length=200)
    tenant: str | None = None


class Rotation(BaseModel):
    model_config = ConfigDict(extra="forbid")
    grace: float = Field(default=0.0, ge=0.0, le=90 * 86_400.0)


def router(services: Services) -> APIRouter:
    routes, management = APIRouter(), services.directory.management

    async def find(identifier: str, principal: Principal) -> Key:
        key = await asyncio.to_thread(management.access.find, Key, identifier)
        if key is None or not within_reach(principal, key.tenant):
            raise ApiError(404, f'no key "{identifier[:80]}"', code="not_found")
        return key

    @routes.get("/admin/keys")
    @needs("keys:manage")
    async def every_key(request: Request, tenant: str | None = None) -> dict[str, Any]:
        wanted = reach(principal_of(request), tenant)
        keys = await asyncio.to_thread(management.access.every, Key, tenant=wanted)
        return listed(key_object(key) for key in keys)

    @routes.post("/admin/keys", status_code=201)
    @needs("keys:manage")
    async def create(body: NewKey, request: Request) -> dict[str, Any]:
        principal = principal_of(request)
        _check_given(principal, body.given())
        tenant = reach(principal, body.tenant or principal.tenant) or principal.tenant
        key, whole = await asyncio.to_thread(
            management.create_key, **body.given(), tenant=tenant, created_by=principal.id,
            allow=await allowance(services.directory, principal),
        )  # fmt: skip
        return {**key_object(key), "secret": whole}

    @routes.get("/admin/keys/{identifier}")
    @needs("keys:manage")
    async def one_key(identifier: str, request: Request) -> dict[str, Any]:
        return key_object(await find(identifier, principal_of(request)))

    @routes.patch("/admin/keys/{identifier}")
    @needs("keys:manage")
    async def change(identifier: str, body: KeyChange, request: Request) -> dict[str, Any]:
        principal = principal_of(request)
        key = await find(identifier, principal)
        _check_given(principal, body.given())
        allow = await allowance(services.directory, principal)
        return key_object(await asyncio.to_thread(management.change_key, key, allow=allow, **body.given()))

    @routes.post("/admin/keys/{identifier}/rotate", status_code=201)
    @needs("keys:manage")
    async def rotate(identifier: str, request: Request, body: Rotation | None = None) -> dict[str, Any]:
        principal = principal_of(request)
        key = await find(identifier, principal)
        grace = body.grace if body else 0.0
        fresh, whole = await asyncio.to_thread(
            management.rotate_key, key, grace=grace, created_by=principal.id,
            allow=await allowance(services.directory, principal),
        )  # fmt: skip
        return {**key_object(fresh), "secret": whole}

    @routes.delete("/admin/keys/{identifier}")
    @needs("keys:manage")
    async def revoke(identifier: str, request: Request) -> dict[str, Any]:
        key = await find(identifier, principal_of(request))
        return key_object(await asyncio.to_thread(management.revoke_key, key))

    return routes


def _check_given(principal: Principal, values: dict[str, Any]) -> None:
    """Raises ApiError 403 for a place in the queue before other tenants."""
    if values.get("priority", 0) < 0 and not principal.runs_house:
        raise ApiError(
            403, "a priority below 0 is for the house to give", param="priority", code="permission_denied"
        )
