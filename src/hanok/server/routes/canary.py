"""/admin/models/{model}/canary: a share of the conversations for another model, compared, promoted or rolled back."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from hanok.artefacts import withdrawal
from hanok.server.auditing.models import refusals_told
from hanok.server.canary.arms import ARMS, ArmName, compare
from hanok.server.errors import ApiError
from hanok.server.identity.objects import listed
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.store.canaries import Canaries, Canary

Share = Annotated[float, Field(gt=0, le=1)]


class Starting(BaseModel):
    """A model directory of the server's machine, and the share of conversations that it is to answer."""

    model_config = ConfigDict(extra="forbid")
    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
    share: Share = 0.05
    auto_rollback: bool = True


class Changing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: Share | None = None
    auto_rollback: bool | None = None


class Ending(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: Annotated[str, Field(max_length=2_000)] = ""


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["administration"])
    table = Canaries(services.store)
    _add_looking(routes, services, table)
    _add_changing(routes, services, table)
    return routes


def _add_looking(routes: APIRouter, services: Services, table: Canaries) -> None:
    @routes.get("/admin/canaries")
    @needs("models:manage")
    async def every() -> dict[str, Any]:
        """Newest first."""
        return listed(await asyncio.to_thread(lambda: [canary_object(row) for row in table.every()]))

    @routes.get("/admin/models/{model:path}/canary")
    @needs("models:manage")
    async def newest(model: str) -> dict[str, Any]:
        """The newest of a model, running or not, with both models' answers compared."""
        return await _compared(services, await _find(table, model))


def _add_changing(routes: APIRouter, services: Services, table: Canaries) -> None:
    trials, trail = services.operations.trials, services.directory.trail

    async def done(kind: str, row: Canary, **facts: Any) -> None:
        facts = {"of": row.id, "hash": row.canary_hash, **facts}
        await asyncio.to_thread(trail.sure, kind, target=row.model, facts=facts)

    @routes.post("/admin/models/{model:path}/canary", status_code=201)
    @needs("models:manage")
    async def start(model: str, body: Starting) -> dict[str, Any]:
        """Try another model out beside this one; which of them answers a conversation stays so."""
        services.operations.check_alone("a canary")
        host = services.models.host(model)
        if model != services.models.default_name:
            raise ApiError(
                400, f'"{model}" is not the first model of this server', param="model", code="not_first"
            )
        if host.canary is not None:
            raise ApiError(409, f'"{model}" has a canary already', code="canary_running")
        trail.ready()
        async with refusals_told(trail, model):
            row = await trials.start(
                host, Path(body.directory).expanduser(), share=body.share, auto_rollback=body.auto_rollback,
                room=services.models.room(),
            )  # fmt: skip
        facts = {"share": row.share, "auto_rollback": row.auto_rollback, "signed_by": trials.signed_by(model)}
        await done("canary.start", row, **facts, before=row.current_hash)
        return canary_object(row)

    @routes.patch("/admin/models/{model:path}/canary")
    @needs("models:manage")
    async def change(model: str, body: Changing) -> dict[str, Any]:
        """Another share: conversations of the canary stay its own while it grows."""
        await _running(services, table, model)
        trail.ready()
        row = await trials.change(model, **body.model_dump(exclude_none=True))
        await done("canary.change", row, share=row.share, auto_rollback=row.auto_rollback)
        return canary_object(row)

    @routes.post("/admin/models/{model:path}/canary/promote")
    @needs("models:manage")
    async def promote(model: str, request: Request, body: Ending | None = None) -> dict[str, Any]:
        """Everybody gets the canary's model; for some seconds it is taken back by itself if its answers fail."""
        row = await _running(services, table, model)
        trail.ready()
        signed_by = trials.signed_by(model)
        async with refusals_told(trail, model):
            await trials.promote(model, by=principal_of(request).id, why=(body or Ending()).reason)
        await done("canary.promote", row, before=row.current_hash, signed_by=signed_by)
        return await _compared(services, await _find(table, model))

    @routes.post("/admin/models/{model:path}/canary/rollback")
    @needs("models:manage")
    async def roll_back(model: str, request: Request, body: Ending | None = None) -> dict[str, Any]:
        """Everybody gets the current model; the canary's is not chosen by itself any more."""
        row = await _running(services, table, model)
        trail.ready()
        await trials.roll_back(model, by=principal_of(request).id, why=(body or Ending()).reason)
        await done("canary.roll_back", row)
        return await _compared(services, await _find(table, model))


def canary_object(row: Canary) -> dict[str, Any]:
    """`withdrawn`: whether its model was taken out of service since, whatever became of this trial; when, by whom and why."""
    values = asdict(row)
    values.pop("counts")
    sides = {
        side: {"directory": values.pop(f"{side}_directory"), "hash": values.pop(f"{side}_hash")}
        for side in ARMS
    }
    note = withdrawal(Path(row.canary_directory))
    return {"object": "canary", **values, **sides, "withdrawn": None if note is None else asdict(note)}


async def _compared(services: Services, row: Canary) -> dict[str, Any]:
    counts = services.operations.trials.counts(row)
    hashes: dict[ArmName, str] = {"current": row.current_hash, "canary": row.canary_hash}
    found: dict[ArmName, tuple[int, int]] = {
        side: await asyncio.to_thread(
            services.store.count_ratings, hashes[side], since=row.created, until=row.ended
        )
        for side in ARMS
    }
    return {**canary_object(row), "comparison": await asyncio.to_thread(compare, counts, found)}


async def _find(table: Canaries, model: str) -> Canary:
    row = await asyncio.to_thread(table.find, model)
    if row is None:
        raise ApiError(404, f'"{model}" has and had no canary', param="model", code="no_canary")
    return row


async def _running(services: Services, table: Canaries, model: str) -> Canary:
    row = await _find(table, model)
    if services.models.host(model).canary is None:
        raise ApiError(404, f'no canary of "{model}" is running', param="model", code="no_canary")
    return row
