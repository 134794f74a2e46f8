"""Who I am, signing in and out: /session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from hanok.server.errors import ApiError
from hanok.server.identity.middleware import COOKIE
from hanok.server.identity.provider import CALLBACK
from hanok.server.identity.provider import COOKIE as OIDC_COOKIE
from hanok.server.identity.roles import PUBLIC, needs
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services
from hanok.store.access import Session

if TYPE_CHECKING:
    from hanok.server.identity.oidc import Oidc


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)
    password: str = Field(max_length=1000)


class Setup(Login):
    token: str = Field(max_length=200)


class NewPassword(BaseModel):
    model_config = ConfigDict(extra="forbid")
    old: str = Field(max_length=1000)
    new: str = Field(max_length=1000)


def router(services: Services) -> APIRouter:
    routes, people, trail = APIRouter(), services.people, services.directory.trail

    def described(principal: Principal, session: Session | None) -> dict[str, Any]:
        known = principal.kind != "nobody"
        return {
            "mode": "keys" if services.directory.closed else "open", "signed_in": known,
            "principal": principal_object(principal) if known else None,
            "csrf": session.csrf if session else None, "expires": session.expires if session else None,
            "login": {
                "password": True, "oidc": services.oidc.name if services.oidc else None, "setup": people.setup
            },
        }  # fmt: skip

    async def told(kind: str, who: Principal, **facts: Any) -> None:
        await asyncio.to_thread(trail.sure, kind, actor=who.id, tenant=who.tenant, facts=facts)

    def begun(request: Request, opened: tuple[Principal, Session, str]) -> Response:
        principal, session, cookie = opened
        response = JSONResponse(described(principal, session))
        set_cookie(response, request, cookie)
        return response

    @routes.get("/session")
    @needs(PUBLIC)
    async def who_am_i(request: Request) -> dict[str, Any]:
        principal = principal_of(request)
        return described(principal, await services.directory.session_of(principal))

    @routes.post("/session", response_model=None)
    @needs(PUBLIC)
    async def sign_in(body: Login, request: Request) -> Response:
        trail.ready()  # nobody takes a thread to wait for what cannot be written
        address = request.client.host if request.client else None
        try:
            opened = await people.sign_in(body.name, body.password, address=address)
        except ApiError as error:
            refused = {"name": body.name, "address": address}
            if error.status != 429:  # these are held back before they mean anything
                trail.tell("session.refused", facts={"code": error.code}, content=refused, subject="sign-ins")
            raise
        await told("session.begin", opened[0], by="password")
        return begun(request, opened)

    @routes.delete("/session", status_code=204)
    @needs("session:own")
    async def sign_out(request: Request, response: Response) -> None:
        await people.sign_out(principal_of(request))
        trail.tell("session.end")
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    @routes.post("/session/setup", response_model=None)
    @needs(PUBLIC)
    async def set_up(body: Setup, request: Request) -> Response:
        trail.ready()
        opened = await people.sign_up(body.token, body.name, body.password)
        await told("session.begin", opened[0], by="setup token")
        return begun(request, opened)

    @routes.post("/session/password", status_code=204)
    @needs("session:own")
    async def change_password(body: NewPassword, request: Request) -> None:
        address = request.client.host if request.client else None
        await people.change_password(principal_of(request), body.old, body.new, address=address)

    @routes.get("/session/oidc", response_model=None)
    @needs(PUBLIC)
    async def to_provider(request: Request) -> Response:
        return await provider().begin(request, people)

    @routes.get("/session/oidc/callback", response_model=None)
    @needs(PUBLIC)
    async def from_provider(request: Request) -> Response:
        trail.ready()
        cookie, principal = await provider().finish(request, people)
        await told("session.begin", principal, by="provider")
        # a page of our own, and not a redirect: the way back began at the provider, so a strict cookie would not go along
        response = HTMLResponse(
            '<!doctype html><meta http-equiv="refresh" content="0; url=/"><title>Hanok</title>'
        )
        set_cookie(response, request, cookie)
        response.delete_cookie(OIDC_COOKIE, path=CALLBACK)
        return response

    def provider() -> Oidc:
        if services.oidc is None:
            raise ApiError(404, "no identity provider is configured", code="not_found")
        return services.oidc

    return routes


def set_cookie(response: Response, request: Request, cookie: str) -> None:
    response.set_cookie(
        COOKIE, cookie, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )


def principal_object(principal: Principal) -> dict[str, Any]:
    return {
        "id": principal.id, "name": principal.name, "kind": principal.kind, "tenant": principal.tenant,
        "role": principal.role, "permissions": sorted(principal.permissions),
        "models": None if principal.models is None else sorted(principal.models),
    }  # fmt: skip
