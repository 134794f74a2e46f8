"""POST /v1/embeddings: the mean of the served model's last hidden vectors (behind the final norm), scaled to length 1."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hanok.errors import ContextLengthError, InputError
from hanok.server.errors import ApiError
from hanok.server.exchange import Exchange
from hanok.server.identity.roles import needs
from hanok.server.models import Served
from hanok.server.principal import principal_of
from hanok.server.prompts import Prompts, prompt_ids
from hanok.server.services import Services
from hanok.server.streams import unless_disconnected
from hanok.server.work import admitted


class EmbeddingRequest(BaseModel):
    """Body of POST /v1/embeddings. `dimensions`: the first so many, scaled to length 1 again (as Matryoshka models mean it; other
    models lose what the rest said)."""

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["embeddings"])

    @routes.post("/v1/embeddings", response_model=None)
    @needs("embeddings:create")
    async def embeddings(body: EmbeddingRequest, request: Request) -> Any:
        """A vector for each text."""
        return await unless_disconnected(request, _embeddings(services, body, request))

    return routes


async def _embeddings(services: Services, body: EmbeddingRequest, request: Request) -> dict[str, Any]:
    principal = principal_of(request)
    async with services.models.use(body.model, principal) as served:
        ids = await asyncio.to_thread(prompt_ids, served.engine.tokenizer, body.input)
        _check(served, ids, body.dimensions)
        tokens = sum(map(len, ids))
        exchange = Exchange(
            id=f"embd-{uuid.uuid4().hex}", route="embeddings", principal=principal, model=served.name,
            model_hash=served.hash, prompt_tokens=tokens, max_tokens=0,
        )  # fmt: skip
        vectors = []
        async with admitted(services, exchange):
            for one in ids:  # one by one: between two of them a client that went away is noticed
                vectors.append(await asyncio.to_thread(embed_text, served, one))
    data = [
        {"object": "embedding", "index": place, "embedding": _written(_shortened(vector, body.dimensions), body)}
        for place, vector in enumerate(vectors)
    ]  # fmt: skip
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": served.name, "usage": usage}


def embed_text(served: Served, ids: Sequence[int]) -> np.ndarray:
    """Of length 1, float32."""
    hidden_ND = served.engine.embed(ids, -1, adapter=served.adapter_name)
    return torch.nn.functional.normalize(hidden_ND.mean(0), dim=0).numpy()


def _check(served: Served, ids: Sequence[Sequence[int]], dimensions: int | None) -> None:
    engine = served.engine
    width = engine.config.hidden_size
    if dimensions is not None and dimensions > width:
        raise ApiError(
            400, f"dimensions = {dimensions}: this model's vectors have {width}", param="dimensions"
        )
    for one in ids:
        if len(one) > engine.max_context:
            raise ContextLengthError(prompt=len(one), limit=engine.max_context)
        if max(one) >= engine.tokenizer.vocab_size:
            raise InputError(f"token {max(one)}", remedy=f"ids go up to {engine.tokenizer.vocab_size - 1}")


def _shortened(vector: np.ndarray, dimensions: int | None) -> np.ndarray:
    if dimensions is None:
        return vector
    part = vector[:dimensions]
    return part / max(float(np.linalg.norm(part)), 1e-12)


def _written(vector: np.ndarray, body: EmbeddingRequest) -> list[float] | str:
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
