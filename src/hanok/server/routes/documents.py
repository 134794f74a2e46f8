"""Files, vector stores and search in them, as OpenAI's clients speak of them; and the passage that a citation names."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from hanok.documents.index import BLEND
from hanok.documents.records import File
from hanok.errors import FetchError
from hanok.guard.fetch import NOT_FETCHED
from hanok.server.document_schema import (
    PURPOSES,
    Attach,
    ChangeAttributes,
    ChangeStore,
    CreateStore,
    FetchFile,
    Ranking,
    Search,
    file_object,
    member_object,
    name_of,
    page_of,
    passage_object,
    results_object,
    store_object,
)
from hanok.server.errors import ApiError
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services

FETCHES = 4  # addresses at a time
Limit = Annotated[int, Query(ge=1, le=10_000)]
ShortLimit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]
Number = Annotated[int, Path(ge=0, lt=2**31)]


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["documents"])
    _add_files(routes, services)
    _add_stores(routes, services)
    _add_members(routes, services)
    return routes


def _add_files(routes: APIRouter, services: Services) -> None:
    @routes.post("/v1/files")
    @needs("documents:write")
    async def upload(request: Request) -> dict[str, Any]:
        """Multipart: `file`, and `purpose` "assistants" or "user_data". The same bytes again are the same file."""
        most = services.documents.files.most_bytes
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most + (1 << 16):
            raise ApiError(
                413, f"the file is too large: a document may have {most:,} bytes", code="file_too_large"
            )
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(
                400, "send the file as multipart/form-data", param="file", code="invalid_content_type"
            )
        async with request.form(max_files=1, max_fields=16) as form:
            upload, purpose = form.get("file"), form.get("purpose", PURPOSES[0])
            if not isinstance(upload, UploadFile):
                raise ApiError(400, 'the form has no file in its field "file"', param="file", code="missing")
            if purpose not in PURPOSES:
                raise ApiError(
                    400, f'purpose "{purpose}": this server keeps documents; "assistants" or "user_data"', param="purpose"
                )  # fmt: skip
            if any(name.startswith("expires_after") for name in form):
                raise ApiError(400, "files do not expire here; delete them", param="expires_after")
            if (upload.size or 0) > most:
                raise ApiError(
                    413, f"the file is too large: a document may have {most:,} bytes", code="file_too_large"
                )
            content, name = await upload.read(), upload.filename or ""
        return file_object(await asyncio.to_thread(_keep, services, request, name, content, str(purpose)))

    turns = asyncio.Semaphore(FETCHES)

    @routes.post("/v1/files/fetch")
    @needs("documents:write")
    async def fetch(body: FetchFile, request: Request) -> dict[str, Any]:
        """Keep what is at an address, where the guard's policy has a rule "fetch"; by its fetcher alone."""
        fetcher = services.guard.of(principal_of(request).tenant).fetcher
        if fetcher is None:
            raise ApiError(
                403, "addresses are not fetched here: the guard's policy has no rule for it", param="url"
            )
        if turns.locked():
            raise ApiError(
                503, f"{FETCHES} addresses are being fetched; try again", headers={"Retry-After": "5"}
            )
        async with turns:
            fetched = await fetcher.fetch_async(body.url)
        if fetched.status != 200:
            raise FetchError(NOT_FETCHED)
        name = body.name or name_of(fetched)
        return file_object(
            await asyncio.to_thread(_keep, services, request, name, fetched.body, body.purpose)
        )

    @routes.get("/v1/files")
    @needs("documents:read")
    async def files(
        request: Request, limit: Limit = 10_000, order: Order = "desc", after: str | None = None, purpose: str | None = None
    ) -> dict[str, Any]:  # fmt: skip
        found = await asyncio.to_thread(services.documents.files.list, principal_of(request).tenant)
        found = [file for file in found if purpose in (None, file.purpose)]
        return page_of(found, file_object, limit=limit, order=order, after=after)

    @routes.get("/v1/files/{file_id}")
    @needs("documents:read")
    async def file(file_id: str, request: Request) -> dict[str, Any]:
        return file_object(
            await asyncio.to_thread(services.documents.files.get, principal_of(request).tenant, file_id)
        )

    @routes.get("/v1/files/{file_id}/content", response_model=None)
    @needs("documents:read")
    async def content(file_id: str, request: Request) -> Response:
        library, tenant = services.documents, principal_of(request).tenant
        file = await asyncio.to_thread(library.files.get, tenant, file_id)
        data = await asyncio.to_thread(library.files.content, tenant, file_id)
        disposition = (
            f"attachment; filename*=UTF-8''{quote(file.name)}"  # never shown as a page of this server
        )
        return Response(
            data,
            media_type="application/octet-stream",
            headers={"Content-Disposition": disposition},
        )

    @routes.get("/v1/files/{file_id}/passages/{number}")
    @needs("documents:read")
    async def passage(file_id: str, number: Number, request: Request) -> dict[str, Any]:
        """The passage that a citation names."""
        tenant = principal_of(request).tenant
        return passage_object(
            await asyncio.to_thread(services.documents.files.passage, tenant, file_id, number)
        )

    @routes.delete("/v1/files/{file_id}")
    @needs("documents:write")
    async def delete(file_id: str, request: Request) -> dict[str, Any]:
        await asyncio.to_thread(services.documents.files.delete, principal_of(request).tenant, file_id)
        return {"id": file_id, "object": "file", "deleted": True}


def _keep(services: Services, request: Request, name: str, content: bytes, purpose: str) -> File:
    return services.documents.files.add(principal_of(request).tenant, name, content, purpose=purpose)


def _add_stores(routes: APIRouter, services: Services) -> None:
    @routes.post("/v1/vector_stores")
    @needs("documents:write")
    async def create(body: CreateStore, request: Request) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            return store_object(
                services.documents.collections.create(
                    principal_of(request).tenant, body.name or "", metadata=body.metadata or {}, file_ids=body.file_ids
                )
            )  # fmt: skip

        return await asyncio.to_thread(make)

    @routes.get("/v1/vector_stores")
    @needs("documents:read")
    async def stores(
        request: Request, limit: ShortLimit = 20, order: Order = "desc", after: str | None = None
    ) -> dict[str, Any]:
        found = await asyncio.to_thread(services.documents.collections.list, principal_of(request).tenant)
        return page_of(found, store_object, limit=limit, order=order, after=after)

    @routes.get("/v1/vector_stores/{store_id}")
    @needs("documents:read")
    async def store(store_id: str, request: Request) -> dict[str, Any]:
        tenant = principal_of(request).tenant
        return store_object(await asyncio.to_thread(services.documents.collections.get, tenant, store_id))

    @routes.post("/v1/vector_stores/{store_id}")
    @needs("documents:write")
    async def change(store_id: str, body: ChangeStore, request: Request) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            return store_object(
                services.documents.collections.change(
                    principal_of(request).tenant, store_id, name=body.name, metadata=body.metadata
                )
            )

        return await asyncio.to_thread(make)

    @routes.delete("/v1/vector_stores/{store_id}")
    @needs("documents:write")
    async def delete(store_id: str, request: Request) -> dict[str, Any]:
        tenant = principal_of(request).tenant
        await asyncio.to_thread(services.documents.collections.delete, tenant, store_id)
        return {"id": store_id, "object": "vector_store.deleted", "deleted": True}

    @routes.post("/v1/vector_stores/{store_id}/search")
    @needs("documents:read")
    async def search(store_id: str, body: Search, request: Request) -> dict[str, Any]:
        ranking = body.ranking_options or Ranking()
        blend = BLEND if ranking.hybrid_search is None else ranking.hybrid_search.blend

        def find() -> dict[str, Any]:
            results = services.documents.search(
                principal_of(request).tenant, [store_id], body.text, limit=body.max_num_results, filters=body.filters,
                threshold=ranking.score_threshold, blend=blend,
            )  # fmt: skip
            return results_object(body.text, results)

        return await asyncio.to_thread(find)


def _add_members(routes: APIRouter, services: Services) -> None:
    @routes.post("/v1/vector_stores/{store_id}/files")
    @needs("documents:write")
    async def attach(store_id: str, body: Attach, request: Request) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            tenant, collections = principal_of(request).tenant, services.documents.collections
            member = collections.attach(tenant, store_id, body.file_id, attributes=body.attributes or {})
            return member_object(member, store_id)

        return await asyncio.to_thread(make)

    @routes.get("/v1/vector_stores/{store_id}/files")
    @needs("documents:read")
    async def members(
        store_id: str, request: Request, limit: ShortLimit = 20, order: Order = "desc", after: str | None = None
    ) -> dict[str, Any]:  # fmt: skip
        tenant = principal_of(request).tenant
        found = await asyncio.to_thread(services.documents.collections.members, tenant, store_id)
        return page_of(found, lambda one: member_object(one, store_id), limit=limit, order=order, after=after)

    @routes.get("/v1/vector_stores/{store_id}/files/{file_id}")
    @needs("documents:read")
    async def member(store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        tenant = principal_of(request).tenant
        found = await asyncio.to_thread(services.documents.collections.member, tenant, store_id, file_id)
        return member_object(found, store_id)

    @routes.post("/v1/vector_stores/{store_id}/files/{file_id}")
    @needs("documents:write")
    async def describe(
        store_id: str, file_id: str, body: ChangeAttributes, request: Request
    ) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            tenant, collections = principal_of(request).tenant, services.documents.collections
            collections.member(tenant, store_id, file_id)
            member = collections.attach(tenant, store_id, file_id, attributes=body.attributes or {})
            return member_object(member, store_id)

        return await asyncio.to_thread(make)

    @routes.get("/v1/vector_stores/{store_id}/files/{file_id}/content")
    @needs("documents:read")
    async def texts(store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        """What was read from the file."""
        tenant, library = principal_of(request).tenant, services.documents
        await asyncio.to_thread(library.collections.member, tenant, store_id, file_id)
        found = await asyncio.to_thread(library.files.text, tenant, file_id)
        data = [{"type": "text", "text": text} for text in found]
        return {
            "object": "vector_store.file_content.page",
            "data": data,
            "has_more": False,
            "next_page": None,
        }

    @routes.delete("/v1/vector_stores/{store_id}/files/{file_id}")
    @needs("documents:write")
    async def detach(store_id: str, file_id: str, request: Request) -> dict[str, Any]:
        tenant = principal_of(request).tenant
        await asyncio.to_thread(services.documents.collections.detach, tenant, store_id, file_id)
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}
