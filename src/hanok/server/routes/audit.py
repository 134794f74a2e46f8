"""Who did what, for administrators and reviewers: /v1/audit."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from hanok.errors import NotFoundError
from hanok.server.errors import ApiError
from hanok.server.identity.reach import reach, within_reach
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.store.audit.log import AuditLog
from hanok.store.audit.reader import Reader, Wanted
from hanok.store.audit.sealing import Vault
from hanok.store.connection import is_url

VERIFY_SECONDS = 600.0
Name = Annotated[str | None, Query(max_length=400)]
Number = Annotated[int | None, Query(ge=0, le=2**53)]
Moment = Annotated[float | None, Query(ge=0, le=1e11)]


def router(services: Services) -> APIRouter:
    routes, trail, verifying = APIRouter(tags=["audit"]), services.directory.trail, asyncio.Lock()

    def log() -> AuditLog:
        if trail.server_log is None:
            raise ApiError(404, "this server keeps no audit", code="not_found")
        return trail.server_log

    @routes.get("/v1/audit")
    @needs("audit:read")
    async def entries(
        request: Request, kind: Name = None, tenant: Name = None, actor: Name = None, request_id: Name = None,
        since: Moment = None, until: Moment = None, before: Number = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, Any]:  # fmt: skip
        """Newest first; `next` goes into `before` for the page behind. Content is left out."""
        wanted = Wanted(
            kind=kind, tenant=reach(principal_of(request), tenant), actor=actor, request=request_id, since=since,
            until=until, before=before,
        )  # fmt: skip
        rows = await asyncio.to_thread(_read, log(), wanted, limit + 1)
        page = rows[:limit]
        more = len(rows) > limit
        return {
            "object": "list",
            "data": page,
            "has_more": more,
            "next": page[-1]["sequence"] if more else None,
        }

    @routes.get("/v1/audit/verify")
    @needs("audit:read")
    async def verify() -> dict[str, Any]:
        """Look at all of it, in a process of its own: minutes for millions of entries."""
        if verifying.locked():
            raise ApiError(409, "the audit is being verified", code="busy", headers={"Retry-After": "10"})
        async with verifying:
            return await _verified(log())

    @routes.get("/v1/audit/checkpoint")
    @needs("audit:read")
    async def checkpoint() -> dict[str, Any]:
        """The newest, for whoever wants to keep it elsewhere, and the key that it can be checked with."""
        here = log()
        note = await asyncio.to_thread(_newest, here)
        return {"checkpoint": note, "public_key": str(here.keys.signer.verifier)}

    @routes.get("/v1/audit/{sequence}")
    @needs("audit:read")
    async def entry(sequence: int, request: Request, content: bool = False) -> dict[str, Any]:
        """One; its content too if it was kept and not forgotten. That it was opened is an entry of its own."""
        here, principal = log(), principal_of(request)
        row = await asyncio.to_thread(_find, here, sequence)
        if not within_reach(principal, row["tenant"]):
            raise NotFoundError(f"the audit has no entry {sequence}")
        if content and row["sealed"] is not None:
            await asyncio.to_thread(
                trail.sure, "audit.opened", target=str(sequence), tenant=row["tenant"], actor=principal.id
            )
            row["content"] = await asyncio.to_thread(_open, here, sequence)
        return row

    return routes


def _read(log: AuditLog, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
    with Reader(log.place) as reader:
        return reader.list(wanted, limit=limit)


def _find(log: AuditLog, sequence: int) -> dict[str, Any]:
    with Reader(log.place) as reader:
        return reader.find(sequence)


def _newest(log: AuditLog) -> str | None:
    with Reader(log.place) as reader:
        return reader.newest_note()


def _open(log: AuditLog, sequence: int) -> dict[str, Any] | None:
    vault = Vault(log.keys.master, log.origin)
    try:
        with Reader(log.place) as reader, reader.connection() as connection:
            return vault.open(connection, sequence)
    except NotFoundError:
        return None


async def _verified(log: AuditLog) -> dict[str, Any]:
    """By the command, so that what is shown here is what anybody else would see, and so that nobody waits for it."""
    words = ["audit", "verify", "--json", "--audit-dir", str(log.place.folder)]
    if log.place.mirror is not None and log.place.mirror.exists():
        words += ["--checkpoint", str(log.place.mirror)]
    environment = dict(os.environ)
    environment.pop("HANOK_STORE", None)
    if is_url(log.place.log):
        environment["HANOK_STORE"] = str(log.place.log)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hanok.cli", *words, env=environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(VERIFY_SECONDS):
            out, said = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode not in (0, 1) or not out:
        raise ApiError(500, f"the audit could not be verified: {said.decode(errors='replace')[-300:]}")
    return dict(json.loads(out))
