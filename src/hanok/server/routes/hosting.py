"""/admin/models and /admin/adapters: an administrator loads and unloads while the server runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from hanok.server.auditing.models import refusals_told
from hanok.server.identity.roles import needs
from hanok.server.services import Services


class AdapterRequest(BaseModel):
    """A LoRA adapter in PEFT's files, in a directory of the server's machine. `model`: whose it is; the default one's."""

    name: Annotated[str, Field(pattern=r"^[\w.:/@+-]{1,128}$")]
    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
    model: str | None = None


class ReplaceRequest(BaseModel):
    """A model directory of the server's machine."""

    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


def router(services: Services) -> APIRouter:
    routes, models = APIRouter(tags=["administration"]), services.models

    def ready() -> None:
        services.operations.check_alone("models and adapters that come and go")
        services.directory.trail.ready()

    async def done(kind: str, target: str, **facts: Any) -> None:
        await asyncio.to_thread(services.directory.trail.sure, kind, target=target, facts=facts)

    @routes.post("/admin/models/{model:path}/load")
    @needs("models:manage")
    async def load(model: str) -> dict[str, Any]:
        """Into memory, once there is room."""
        ready()
        async with refusals_told(services.directory.trail, model):
            await models.load(model)
        await done("model.load", model)
        return models.describe(model)

    @routes.post("/admin/models/{model:path}/unload")
    @needs("models:manage")
    async def unload(model: str) -> dict[str, Any]:
        """Out of memory, once requests under way are finished. Whoever asks for it later has it loaded again."""
        ready()
        await models.unload(model)
        await done("model.unload", model)
        return models.describe(model)

    @routes.post("/admin/models/{model:path}/replace")
    @needs("models:manage")
    async def replace(model: str, body: ReplaceRequest) -> dict[str, Any]:
        """By another directory, tried out first and taken back by itself if its answers fail; nobody waits meanwhile."""
        ready()
        before = models.hash_of(model)
        async with refusals_told(services.directory.trail, model):
            await services.operations.replacing.replace(models.host(model), Path(body.directory).expanduser())
        opened = models.host(model).opened
        signed_by = None if opened is None else opened.signed_by
        await done("model.replace", model, before=before, hash=models.hash_of(model), signed_by=signed_by)
        return {**models.describe(model), "hash": models.hash_of(model)}

    @routes.post("/admin/adapters", status_code=201)
    @needs("models:manage")
    async def load_adapter(body: AdapterRequest) -> dict[str, Any]:
        """A model of its own from now on."""
        ready()
        async with refusals_told(services.directory.trail, body.name):
            await models.load_adapter(body.name, Path(body.directory).expanduser(), model=body.model)
        await done("adapter.load", body.name, model=body.model)
        return models.describe(body.name)

    @routes.delete("/admin/adapters/{adapter:path}")
    @needs("models:manage")
    async def unload_adapter(adapter: str) -> dict[str, Any]:
        """Requests that have it finish with it."""
        ready()
        models.unload_adapter(adapter)
        await done("adapter.unload", adapter)
        return {"id": adapter, "object": "model", "deleted": True}

    return routes
