"""People and tenants, for administrators: /admin/users, /admin/tenants."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from hanok.server.errors import ApiError
from hanok.server.identity.giving import allowance
from hanok.server.identity.management import anything
from hanok.server.identity.objects import listed, tenant_object, user_object
from hanok.server.identity.reach import reach, within_reach
from hanok.server.identity.roles import needs
from hanok.server.principal import HOUSE, Principal, principal_of
from hanok.server.services import Services
from hanok.store.access import Tenant, User

Limits = dict[str, float | None]


class UserChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str = "user"
    password: str | None = Field(default=None, max_length=1000)
    disabled: bool = False
    limits: Limits | None = None

    def given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)
    password: str | None = Field(default=None, max_length=1000)
    role: str = "user"
    tenant: str | None = None
    limits: Limits = {}


class TenantChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(default=None, max_length=200)
    suspended: bool = False
    limits: Limits | None = None

    def given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


class NewTenant(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(max_length=64)
    name: str = Field(default="", max_length=200)
    limits: Limits = {}


def router(services: Services) -> APIRouter:
    routes = APIRouter()
    _add_users(routes, services)
    _add_tenants(routes, services)
    return routes


def _add_users(routes: APIRouter, services: Services) -> None:
    management = services.directory.management

    async def find(identifier: str, principal: Principal) -> User:
        user = await asyncio.to_thread(management.access.find, User, identifier)
        if user is None or not within_reach(principal, user.tenant):
            raise ApiError(404, f'no user "{identifier[:80]}"', code="not_found")
        return user

    @routes.get("/admin/users")
    @needs("users:manage")
    async def every_user(request: Request, tenant: str | None = None) -> dict[str, Any]:
        wanted = reach(principal_of(request), tenant)
        return listed(
            user_object(user)
            for user in await asyncio.to_thread(management.access.every, User, tenant=wanted)
        )

    @routes.post("/admin/users", status_code=201)
    @needs("users:manage")
    async def create(body: NewUser, request: Request) -> dict[str, Any]:
        principal = principal_of(request)
        tenant = reach(principal, body.tenant or principal.tenant) or principal.tenant
        user = await asyncio.to_thread(
            management.create_user, body.name, password=body.password, role=body.role, tenant=tenant,
            limits=body.limits, allow=await allowance(services.directory, principal),
        )  # fmt: skip
        return user_object(user)

    @routes.patch("/admin/users/{identifier}")
    @needs("users:manage")
    async def change(identifier: str, body: UserChange, request: Request) -> dict[str, Any]:
        principal, given = principal_of(request), body.given()
        user = await find(identifier, principal)
        shuts_out = set(given) == {"disabled"} and body.disabled  # gives nothing
        allow = anything if shuts_out else await allowance(services.directory, principal)
        return user_object(await asyncio.to_thread(management.change_user, user, allow=allow, **given))

    @routes.delete("/admin/users/{identifier}", status_code=204)
    @needs("users:manage")
    async def delete(identifier: str, request: Request) -> None:
        user = await find(identifier, principal_of(request))
        await asyncio.to_thread(management.delete_user, user)


def _add_tenants(routes: APIRouter, services: Services) -> None:
    management = services.directory.management

    @routes.get("/admin/tenants")
    @needs("tenants:read")
    async def every_tenant(request: Request) -> dict[str, Any]:
        wanted = reach(principal_of(request), None)
        tenants = await asyncio.to_thread(management.access.every, Tenant, tenant=wanted)
        if wanted in (None, HOUSE) and all(one.id != HOUSE for one in tenants):
            tenants.insert(0, Tenant(id=HOUSE, name=HOUSE))
        return listed(tenant_object(tenant) for tenant in tenants)

    @routes.post("/admin/tenants", status_code=201)
    @needs("tenants:manage")
    async def create(body: NewTenant) -> dict[str, Any]:
        return tenant_object(
            await asyncio.to_thread(management.create_tenant, body.id, name=body.name, limits=body.limits)
        )

    @routes.patch("/admin/tenants/{identifier}")
    @needs("tenants:manage")
    async def change(identifier: str, body: TenantChange) -> dict[str, Any]:
        await known(identifier)
        return tenant_object(await asyncio.to_thread(management.change_tenant, identifier, **body.given()))

    @routes.delete("/admin/tenants/{identifier}")
    @needs("tenants:manage")
    async def delete(identifier: str) -> dict[str, Any]:
        await known(identifier)
        removed = await asyncio.to_thread(management.delete_tenant, identifier)
        return {"id": identifier, "deleted": True, "removed": removed}

    async def known(identifier: str) -> None:
        if (
            identifier != HOUSE
            and await asyncio.to_thread(management.access.find, Tenant, identifier) is None
        ):
            raise ApiError(404, f'no tenant "{identifier[:80]}"', code="not_found")
