"""Who did what, for administrators and reviewers: /v1/audit."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from hanok.errors import InputError, NotFoundError
from hanok.server.errors import ApiError
from hanok.server.identity.reach import reach, within_reach
from hanok.server.identity.roles import needs
from hanok.server.principal import principal_of
from hanok.server.services import Services
from hanok.store.audit.log import AuditLog
from hanok.store.audit.reader import Reader, Wanted
from hanok.store.audit.sealing import Vault
from hanok.store.connection import is_url

COMMAND_SECONDS, SIGN_SECONDS = 600.0, 10.0
Name = Annotated[str | None, Query(max_length=400)]
Number = Annotated[int | None, Query(ge=0, le=2**53)]
Moment = Annotated[float | None, Query(ge=0, le=1e11)]


def wanted_by(
    request: Request, kind: Name = None, tenant: Name = None, actor: Name = None, request_id: Name = None,
    since: Moment = None, until: Moment = None, before: Number = None,
) -> Wanted:  # fmt: skip
    """What a query asks for, of those that whoever asks may see."""
    whose = reach(principal_of(request), tenant)
    return Wanted(
        kind=kind, tenant=whose, actor=actor, request=request_id, since=since, until=until, before=before
    )


Filters = Annotated[Wanted, Depends(wanted_by)]


def router(services: Services) -> APIRouter:
    routes, trail = APIRouter(tags=["audit"]), services.directory.trail
    verifying, proving = asyncio.Lock(), asyncio.Lock()

    def log() -> AuditLog:
        if trail.server_log is None:
            raise ApiError(404, "this server keeps no audit", code="not_found")
        return trail.server_log

    @routes.get("/v1/audit")
    @needs("audit:read")
    async def entries(wanted: Filters, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
        """Newest first; `next` goes into `before` for the page behind. Content is left out."""
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

    @routes.get("/v1/audit/checkpoints")
    @needs("audit:read")
    async def checkpoints(
        before: Number = None, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> dict[str, Any]:
        """Newest first, with whether this log's key has signed each; `next` goes into `before`."""
        here = log()
        notes = await asyncio.to_thread(_notes, here, limit + 1, before)
        page = [_opened(here, note) for note in notes[:limit]]
        more = len(notes) > limit
        return {"object": "list", "data": page, "has_more": more, "next": page[-1]["size"] if more else None}

    @routes.get("/v1/audit/export", response_model=None)
    @needs("audit:read")
    async def export(wanted: Filters) -> StreamingResponse:
        """As JSON lines, oldest first: each row as it was hashed, without content. That it was exported is an entry."""
        here = log()
        chosen = sorted(name for name, value in asdict(wanted).items() if value is not None)
        facts = {"content": False, "of": wanted.tenant, "filters": chosen}
        await asyncio.to_thread(trail.sure, "audit.exported", facts=facts)
        return StreamingResponse(
            _lines(here, wanted), media_type="application/x-ndjson",
            headers={"Content-Disposition": 'attachment; filename="audit.jsonl"'},
        )  # fmt: skip

    async def found(sequence: int, request: Request) -> dict[str, Any]:
        """Raises NotFoundError for another tenant's too."""
        row = await asyncio.to_thread(_find, log(), sequence)
        if not within_reach(principal_of(request), row["tenant"]):
            raise NotFoundError(f"the audit has no entry {sequence}")
        return row

    @routes.get("/v1/audit/{sequence}/proof")
    @needs("audit:read")
    async def proof(sequence: int, request: Request) -> dict[str, Any]:
        """That the entry is in the log: to be checked with the public key and nothing else. Signs a checkpoint that has it."""
        here = log()
        await found(sequence, request)
        await asyncio.to_thread(_signed, here, sequence)
        async with proving:
            return await _command(here, ["prove", "--entry", str(sequence)])

    @routes.get("/v1/audit/{sequence}")
    @needs("audit:read")
    async def entry(sequence: int, request: Request, content: bool = False) -> dict[str, Any]:
        """One; its content too if it was kept and not forgotten. That it was opened is an entry of its own."""
        here, row = log(), await found(sequence, request)
        if content and row["sealed"] is not None:
            await asyncio.to_thread(
                trail.sure,
                "audit.opened",
                target=str(sequence),
                tenant=row["tenant"],
                actor=principal_of(request).id,
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


def _notes(log: AuditLog, limit: int, before: int | None) -> list[str]:
    with Reader(log.place) as reader:
        return reader.newest_notes(limit=limit, before=before)


def _opened(log: AuditLog, note: str) -> dict[str, Any]:
    try:
        one = log.keys.signer.verifier.opened(note)
    except InputError as error:
        return {"size": int(note.splitlines()[1]), "signed": False, "problem": error.message, "note": note}
    return {"size": one.size, "root": one.root.hex(), "time": one.time, "signed": True, "note": note}


def _lines(log: AuditLog, wanted: Wanted) -> Iterator[str]:
    with Reader(log.place) as reader:
        for row in reader.every(wanted):
            yield f"{row}\n"


def _signed(log: AuditLog, sequence: int) -> None:
    """Returns once a checkpoint has this entry."""
    with Reader(log.place) as reader:
        newest = reader.newest_note()
    if newest is None or log.keys.signer.verifier.opened(newest).size <= sequence:
        log.checkpoint().result(SIGN_SECONDS)


async def _verified(log: AuditLog) -> dict[str, Any]:
    mirror = log.place.mirror
    elsewhere = ["--checkpoint", str(mirror)] if mirror is not None and mirror.exists() else []
    return await _command(log, ["verify", *elsewhere], ends=(0, 1))


async def _command(log: AuditLog, words: Sequence[str], *, ends: Sequence[int] = (0,)) -> dict[str, Any]:
    """By `hanok audit`, so that what is shown here is what anybody else would see, and so that nobody waits for it.

    Args:
        ends: exit codes with a result.
    """
    environment = dict(os.environ)
    environment.pop("HANOK_STORE", None)
    if is_url(log.place.log):
        environment["HANOK_STORE"] = str(log.place.log)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hanok.cli", "audit", *words, "--json", "--audit-dir", str(log.place.folder),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            out, said = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode not in ends or not out:
        raise ApiError(500, f"the audit could not be read: {said.decode(errors='replace')[-300:]}")
    return dict(json.loads(out))
