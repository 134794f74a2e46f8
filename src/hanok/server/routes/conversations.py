"""What the console keeps for each person: conversations and system-prompt presets, under /console.

A conversation is a tree: an edited question or a second answer is a sibling, and `leaf` names the message that is shown last.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, model_validator

from hanok.guard.verdicts import Action, Direction
from hanok.server.auditing.trail import Trail
from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.server.transcripts import as_jsonl, as_markdown
from hanok.store.conversations import Owner, Saved, Shelf, VersionConflictError, conversations, presets

_NAME = r"^[A-Za-z0-9_-]{1,64}$"
Identifier = Annotated[str, Field(pattern=_NAME)]
Named = Annotated[str, Path(pattern=_NAME)]
Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Words = Annotated[str, Field(max_length=400_000)]
Version = Annotated[int, Field(ge=0, lt=2**31)]
Place = Annotated[int, Field(ge=0, lt=2**31)]
Format = Literal["jsonl", "markdown"]


class SavedApproval(BaseModel):
    """That the guard wants a person to be asked about a call, and what they decided."""

    required: bool = True
    rule: Annotated[str, Field(max_length=200)] = ""
    reason: Annotated[str, Field(max_length=1000)] = ""
    decision: Literal["approved", "refused"] | None = None


class SavedCall(BaseModel):
    """A call of a tool; `arguments` is JSON as the model wrote it."""

    id: Annotated[str, Field(max_length=100)] = ""
    name: Annotated[str, Field(max_length=200)]
    arguments: Words = ""
    approval: SavedApproval | None = None


class SavedFinding(BaseModel):
    """What the guard found in a message, as answers tell it (`hanok.server.findings`)."""

    direction: Direction
    where: Annotated[str, Field(max_length=200)] = ""
    rule: Annotated[str, Field(max_length=200)]
    action: Action
    reason: Annotated[str, Field(max_length=1000)] = ""
    span: tuple[Place, Place] | None = None


class Citation(BaseModel):
    """A passage that an answer rests on: `number` in its text, `passage` in the file."""

    file_id: Annotated[str, Field(max_length=100)]
    filename: Annotated[str, Field(max_length=1000)] = ""
    number: Annotated[int, Field(ge=0, lt=2**31)]
    passage: Annotated[int, Field(ge=0, lt=2**31)] = 0
    text: Annotated[str, Field(max_length=100_000)] = ""


class Attached(BaseModel):
    """A file or a collection that questions are answered from."""

    id: Annotated[str, Field(max_length=100)]
    name: Annotated[str, Field(max_length=1000)] = ""


class SavedMessage(BaseModel):
    """`parent` is None for a first message. `request_id` is what feedback refers to."""

    id: Identifier
    parent: Identifier | None = None
    role: Literal["user", "assistant", "tool"]
    content: Words = ""
    reasoning: Words = ""
    tool_calls: Annotated[list[SavedCall], Field(max_length=64)] = []
    tool_call_id: Annotated[str, Field(max_length=100)] | None = None
    citations: Annotated[list[Citation], Field(max_length=64)] = []
    found: Annotated[list[SavedFinding], Field(max_length=200)] = []
    request_id: Annotated[str, Field(max_length=64)] | None = None
    model: Annotated[str, Field(max_length=200)] | None = None
    end: Annotated[str, Field(max_length=40)] | None = None
    rating: Literal[1, -1] | None = None
    correction: Annotated[str, Field(max_length=20_000)] | None = None
    reason: Annotated[str, Field(max_length=2_000)] | None = None


class Conversation(BaseModel):
    """Body of PUT /console/conversations/{id}. `version`: the one that the writer saw; without it the last writer wins.
    `own_store`: the collection that was made for its files."""

    title: Title
    messages: Annotated[list[SavedMessage], Field(max_length=2_000)]
    leaf: Identifier | None = None
    system: Annotated[str, Field(max_length=100_000)] = ""
    model: Annotated[str, Field(max_length=200)] | None = None
    files: Annotated[list[Attached], Field(max_length=200)] = []
    collections: Annotated[list[Attached], Field(max_length=15)] = []
    own_store: Annotated[str, Field(max_length=100)] | None = None
    version: Version | None = None

    @model_validator(mode="after")
    def _is_a_tree(self) -> Conversation:
        known: set[str] = set()
        for message in self.messages:  # parents come first, so there are no rings
            if message.parent is not None and message.parent not in known:
                raise ValueError(f'message "{message.id}" comes before its parent "{message.parent}"')
            if message.id in known:
                raise ValueError(f'two messages are called "{message.id}"')
            known.add(message.id)
        if self.leaf is not None and self.leaf not in known:
            raise ValueError(f'leaf "{self.leaf}" is no message')
        return self


class Preset(BaseModel):
    """Body of PUT /console/presets/{id}: a system prompt and how to sample."""

    title: Title
    system: Annotated[str, Field(max_length=100_000)] = ""
    mode: Literal["precise", "creative", "model", "own"] = "precise"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    temperature_scale: Annotated[float, Field(gt=0, le=10)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None  # what a browser can say
    version: Version | None = None


def router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/console")
    talks, kept = Shelf(services.store.engine, conversations), Shelf(services.store.engine, presets)
    _add_export(routes, talks, services.directory.trail)
    _add_shelf(routes, talks, "conversation")
    _add_shelf(routes, kept, "preset")

    @routes.put("/conversations/{identifier}")
    @needs("conversations:own")
    async def put_conversation(identifier: Named, body: Conversation, request: Request) -> dict[str, Any]:
        words = [message.content for message in body.messages]
        return await _put(talks, "conversation", identifier, body, request, words)

    @routes.put("/presets/{identifier}")
    @needs("conversations:own")
    async def put_preset(identifier: Named, body: Preset, request: Request) -> dict[str, Any]:
        return await _put(kept, "preset", identifier, body, request, [body.system])

    return routes


def _add_shelf(routes: APIRouter, shelf: Shelf, kind: str) -> None:
    """What both tables have: list, get, delete."""

    @routes.get(f"/{kind}s", name=f"list_{kind}s")
    @needs("conversations:own")
    async def page(
        request: Request,
        q: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        after: Annotated[str, Query(max_length=200)] = "",
    ) -> dict[str, Any]:
        rows = await asyncio.to_thread(
            shelf.page, _owner(request), words=q, limit=limit + 1, after=_read_cursor(after)
        )
        shown, more = rows[:limit], len(rows) > limit
        data = [_head(row, kind) for row in shown]
        return {
            "object": "list",
            "data": data,
            "has_more": more,
            "next": _cursor(shown[-1]) if more else None,
        }

    @routes.get(f"/{kind}s/{{identifier}}", name=f"get_{kind}")
    @needs("conversations:own")
    async def one(identifier: Named, request: Request) -> dict[str, Any]:
        row = await asyncio.to_thread(_known, shelf, _owner(request), identifier)
        return {**_head(row, kind), **row.body}

    @routes.delete(f"/{kind}s/{{identifier}}", name=f"delete_{kind}")
    @needs("conversations:own")
    async def delete(identifier: Named, request: Request) -> dict[str, Any]:
        if not await asyncio.to_thread(shelf.delete, _owner(request), identifier):
            raise _unknown(identifier)
        return {"id": identifier, "object": kind, "deleted": True}


async def _put(
    shelf: Shelf, kind: str, identifier: str, body: Conversation | Preset, request: Request, words: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    kept = body.model_dump(exclude={"version", "title"}, exclude_none=True)
    try:
        row = await asyncio.to_thread(
            shelf.put, _owner(request), identifier, title=body.title, body=kept, words=words, version=body.version
        )  # fmt: skip
    except VersionConflictError as conflict:
        raise ApiError(
            409, f"this {kind} was changed meanwhile: it has version {conflict.version}, not {body.version}",
            param="version", code="version_conflict",
        ) from conflict  # fmt: skip
    return _head(row, kind)


def _add_export(routes: APIRouter, shelf: Shelf, trail: Trail) -> None:
    @routes.get("/conversations/export", response_model=None)
    @needs("conversations:own")
    async def export(
        request: Request, format: Format = "jsonl", id: Annotated[Identifier | None, Query()] = None
    ) -> Response:
        owner = _owner(request)
        rows = shelf.every(owner) if id is None else [await asyncio.to_thread(_known, shelf, owner, id)]
        trail.tell("conversation.exported", target=id or "", facts={"format": format, "labelled": True})
        write = as_jsonl if format == "jsonl" else as_markdown
        ending, kind = ("jsonl", "application/x-ndjson") if format == "jsonl" else ("md", "text/markdown")
        return StreamingResponse(
            map(write, rows),
            media_type=f"{kind}; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{id or "conversations"}.{ending}"'},
        )


def _owner(request: Request) -> Owner:
    principal = principal_of(request)
    return Owner(principal.tenant, principal.id)


def _known(shelf: Shelf, owner: Owner, identifier: str) -> Saved:
    row = shelf.find(owner, identifier)
    if row is None:
        raise _unknown(identifier)
    return row


def _unknown(identifier: str) -> ApiError:
    return ApiError(404, f'nothing called "{identifier}" here', code="not_found")


def _head(row: Saved, kind: str) -> dict[str, Any]:
    return {
        "id": row.id, "object": kind, "title": row.title, "created": row.created, "updated": row.updated, "version": row.version,
    }  # fmt: skip


def _cursor(row: Saved) -> str:
    return base64.urlsafe_b64encode(f"{row.updated!r} {row.id}".encode()).decode()


def _read_cursor(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    try:
        words: Sequence[str] = base64.urlsafe_b64decode(text).decode().split(" ")
        if len(words) == 2 and re.fullmatch(r"[0-9.e+]+", words[0]):
            return float(words[0]), words[1]
    except (binascii.Error, ValueError):
        pass
    raise ApiError(400, "after is no cursor of this list", param="after")
