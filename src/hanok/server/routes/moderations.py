"""POST /v1/moderations: what the caller's policy makes of texts, in OpenAI's form; no model reads them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Discriminator, Field, Tag

from hanok.guard.moderation import Judged, judge
from hanok.server.errors import ApiError
from hanok.server.exchange import Exchange
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.schema import by_type
from hanok.server.services import Services
from hanok.server.streams import unless_disconnected
from hanok.server.work import admitted

MODEL = "guard"  # in usage and metrics, whatever the request calls it
MOST_TEXTS, MOST_CHARACTERS = 256, 200_000  # of a request
_AT_ONCE = 2  # texts of all requests
NAMES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
"""OpenAI's categories, which its clients read: null where no rule here judges one."""


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """Known, to be refused in words of its own."""

    type: Literal["image_url"]


Input = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")],
    by_type("unsupported_input", "a part is a text"),
]


def _kind(value: object) -> str:
    if not isinstance(value, list):
        return "text"
    return "texts" if not value or isinstance(value[0], str) else "parts"


class ModerationRequest(BaseModel):
    """Body of POST /v1/moderations. `model`: taken, and told again; the policy decides. Several parts are one input."""

    input: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS), Tag("texts")]
        | Annotated[list[Input], Field(min_length=1, max_length=MOST_TEXTS), Tag("parts")],
        Discriminator(_kind),
    ]
    model: Annotated[str | None, Field(max_length=256)] = None

    def texts(self) -> list[str]:
        """Raises ApiError: there is an image."""
        if isinstance(self.input, str):
            return [self.input]
        if any(isinstance(one, ImagePart) for one in self.input):
            raise ApiError(
                400, "no rule of this server reads images", param="input", code="unsupported_input"
            )
        texts = [one for one in self.input if isinstance(one, str)]
        return texts or ["\n".join(one.text for one in self.input if isinstance(one, TextPart))]


def router(services: Services) -> APIRouter:
    routes, looks = APIRouter(tags=["guard"]), asyncio.Semaphore(_AT_ONCE)

    @routes.post("/v1/moderations", response_model=None)
    @needs("moderations:create")
    async def moderations(body: ModerationRequest, request: Request) -> Any:
        """Whether the rules mind each text, by category."""
        return await unless_disconnected(request, _moderations(services, looks, body, request))

    return routes


async def _moderations(
    services: Services, looks: asyncio.Semaphore, body: ModerationRequest, request: Request
) -> dict[str, Any]:
    texts, principal = body.texts(), principal_of(request)
    characters = sum(map(len, texts))
    if characters > MOST_CHARACTERS:
        raise ApiError(
            400, f"{characters} characters, at most {MOST_CHARACTERS} in one request", param="input", code="input_too_long"
        )  # fmt: skip
    book = services.guard.of(principal.tenant)
    exchange = Exchange(
        id=f"modr-{uuid.uuid4().hex}", route="moderations", principal=principal, model=MODEL,
        model_hash=services.guard.policy.hash, prompt_tokens=0, max_tokens=0,
    )  # fmt: skip
    results = []
    async with admitted(services, exchange):
        for text in texts:  # one by one: others have their turn, and a client that went away is noticed
            if book.asks_before or book.asks_behind:  # it waits more than it works
                judged = await services.waiting.run(judge, book, text)
            else:
                async with looks:
                    judged = await asyncio.to_thread(judge, book, text)
            results.append(_result(judged))
    return {"id": exchange.id, "model": body.model or MODEL, "results": results}


def _result(judged: Judged) -> dict[str, Any]:
    names = [*NAMES, *(name for name in judged.categories if name not in NAMES)]
    return {
        "flagged": judged.flagged,
        "categories": {name: judged.categories.get(name) for name in names},
        "category_scores": {name: judged.scores.get(name) for name in names},
        "category_applied_input_types": {
            name: ["text"] if name in judged.categories else [] for name in names
        },
    }
