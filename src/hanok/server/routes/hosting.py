"""/admin/models and /admin/adapters: an administrator loads and unloads while the server runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hanok.server.principal import principal_of
from hanok.server.routes.operations import check_operator
from hanok.server.services import Services


class AdapterRequest(BaseModel):
    """A LoRA adapter in PEFT's files, in a directory of the server's machine. `model`: whose it is; the default one's."""

    name: Annotated[str, Field(pattern=r"^[\w.:/@+-]{1,128}$")]
    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
    model: str | None = None


def router(services: Services) -> APIRouter:
    routes, models = APIRouter(tags=["administration"]), services.models

    @routes.post("/admin/models/{model:path}/load")
    async def load(model: str, request: Request) -> dict[str, Any]:
        """Into memory, once there is room."""
        check_operator(principal_of(request))
        await models.load(model)
        return models.describe(model)

    @routes.post("/admin/models/{model:path}/unload")
    async def unload(model: str, request: Request) -> dict[str, Any]:
        """Out of memory, once requests under way are finished. Whoever asks for it later has it loaded again."""
        check_operator(principal_of(request))
        await models.unload(model)
        return models.describe(model)

    @routes.post("/admin/adapters", status_code=201)
    async def load_adapter(body: AdapterRequest, request: Request) -> dict[str, Any]:
        """A model of its own from now on."""
        check_operator(principal_of(request))
        await models.load_adapter(body.name, Path(body.directory).expanduser(), model=body.model)
        return models.describe(body.name)

    @routes.delete("/admin/adapters/{adapter:path}")
    async def unload_adapter(adapter: str, request: Request) -> dict[str, Any]:
        """Requests that have it finish with it."""
        check_operator(principal_of(request))
        models.unload_adapter(adapter)
        return {"id": adapter, "object": "model", "deleted": True}

    return routes
