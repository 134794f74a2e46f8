"""The guard's policy, for administrators: what is in force, what an edited text would do, and the edited text put in force.

Administrators of the house see the whole of it and may change it. Another tenant's see the rules that hold for their tenant,
written out as a policy, and try changes to them; what such a text may not do is reach other files than these rules do.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from hanok.errors import ConfigError
from hanok.guard.policy import Policy, PolicyError
from hanok.guard.provenance import Origin
from hanok.guard.rulebook import Guard
from hanok.guard.trial import try_out
from hanok.server.auditing.open import policy_facts
from hanok.server.errors import ApiError
from hanok.server.identity.reach import reach
from hanok.server.identity.roles import needs
from hanok.server.policies import PolicyFile, described, own_text, within
from hanok.server.principal import Principal, principal_of
from hanok.server.services import Services

MOST_POLICY, MOST_TEXT = 200_000, 20_000  # characters
_AT_ONCE = 2  # trials
Written = Annotated[str, Field(max_length=MOST_POLICY)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Tenant = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class Trial(BaseModel):
    """Body of POST /admin/policy/try. `policy`: by default the one in force. `hidden`: the system prompt of the answer."""

    model_config = ConfigDict(extra="forbid")
    policy: Written | None = None
    tenant: Tenant | None = None
    text: Text = ""
    origin: Origin = "user"
    hidden: Text = ""


class NewPolicy(BaseModel):
    """Body of PUT /admin/policy. `hash`: of the text that was edited."""

    model_config = ConfigDict(extra="forbid")
    policy: Written
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def router(services: Services) -> APIRouter:
    routes, guard, trail = APIRouter(tags=["guard"]), services.guard, services.directory.trail
    saving, trials = asyncio.Lock(), asyncio.Semaphore(_AT_ONCE)

    def told(principal: Principal, tenant: str | None) -> dict[str, Any]:
        whose = reach(principal, tenant) or principal.tenant
        return described(guard.policy, whose, house=principal.runs_house)

    @routes.get("/admin/policy")
    @needs("policy:read")
    async def policy(request: Request, tenant: Tenant | None = None) -> dict[str, Any]:
        """What is in force, and the rules of one tenant; by default one's own."""
        return await asyncio.to_thread(told, principal_of(request), tenant)

    @routes.post("/admin/policy/try")
    @needs("policy:read")
    async def attempt(body: Trial, request: Request) -> dict[str, Any]:
        """What a text would become under an edited policy, which stays where it is. A policy that cannot be used is `problem`."""
        principal = principal_of(request)
        whose = reach(principal, body.tenant) or principal.tenant
        async with trials:
            return await asyncio.to_thread(_tried, guard, body, whose, principal.runs_house)

    @routes.put("/admin/policy")
    @needs("policy:manage")
    async def save(body: NewPolicy, request: Request) -> dict[str, Any]:
        """Write it into the server's policy file and put it in force."""
        principal = principal_of(request)
        trail.ready()

        def change() -> dict[str, Any]:
            before = policy_facts(guard)
            guard.take(PolicyFile.of(guard.policy).replaced(body.policy, seen=body.hash))
            if services.watermarks is not None:
                services.watermarks.take_up_or_say()
            services.operations.announce()
            trail.sure("policy.change", facts={"before": before, "now": policy_facts(guard)})
            return told(principal, None)

        async with saving:
            try:
                return await asyncio.to_thread(change)
            except ConfigError as error:
                raise ApiError(
                    400, str(error), param="policy", code="invalid_policy", more=_where(error)
                ) from error

    return routes


def _tried(guard: Guard, body: Trial, tenant: str, house: bool) -> dict[str, Any]:
    live, told = (
        guard,
        {"object": "policy.trial", "tenant": tenant, "problem": None, "input": None, "output": None},
    )
    if body.policy is not None:
        try:
            live = Guard(_edited(guard.policy, body.policy, tenant, house))
        except ConfigError as error:
            return {**told, "problem": {"message": error.message, "remedy": error.remedy, **_where(error)}}
    if not body.text:
        return told
    return {**told, **try_out(live.of(tenant), body.text, origin=body.origin, hidden=body.hidden)}


def _edited(policy: Policy, text: str, tenant: str, house: bool) -> Policy:
    """Raises PolicyError: it cannot be used, or reaches where a tenant may not."""
    file = PolicyFile.of(policy)
    if not house:
        within(text, own_text(policy, tenant))
    return file.parsed(text)


def _where(error: ConfigError) -> dict[str, Any]:
    return (
        {"line": error.line, "key": error.key}
        if isinstance(error, PolicyError)
        else {"line": None, "key": ""}
    )
