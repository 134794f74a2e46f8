"""Reading a log beside its writer, or a copy of it far away; in pieces, so that a writer never waits long."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Select, create_engine, func, inspect, select
from sqlalchemy.exc import DatabaseError

from hanok.errors import InputError, NotFoundError
from hanok.store.audit.place import AuditPlace
from hanok.store.audit.tables import checkpoints, contents, entries, head
from hanok.store.connection import connect, is_url

PIECE = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Args: kind: "key" finds "key.create" too. before: a sequence number; newer ones are left out. since, until: times."""

    kind: str | None = None
    tenant: str | None = None
    actor: str | None = None
    request: str | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    size: int
    last_hash: bytes
    verifier: str
    format: int = field(default=1)


class Reader:
    """Raises InputError where there is no log."""

    def __init__(self, place: AuditPlace) -> None:
        self._engine = _open(place)
        try:
            found = inspect(self._engine).has_table(head.name)
        except DatabaseError as error:
            self._engine.dispose()
            raise InputError(
                f"{place.log} cannot be read ({error.orig})", remedy="restore a backup"
            ) from error
        if not found:
            self._engine.dispose()
            raise InputError(f"{_named(place)} holds no audit")

    def head(self) -> Head:
        with self._engine.begin() as connection:
            row = connection.execute(select(head)).first()
        if row is None:
            raise InputError("the audit has no head")
        return Head(row.size, row.last_hash, row.verifier, row.format)

    def piece(self, first: int, last: int) -> list[Any]:
        """Entries from `first` up to, without, `last`, in order: rows of `audit_entries`."""
        within = entries.c.sequence.between(first, last - 1)
        with self._engine.begin() as connection:
            return list(connection.execute(select(entries).where(within).order_by(entries.c.sequence)))

    def pieces(self, size: int, *, start: int = 0) -> Iterator[list[Any]]:
        """All of them, some thousand at a time."""
        for first in range(start, size, PIECE):
            yield self.piece(first, min(first + PIECE, size))

    def list(self, wanted: Wanted, *, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        chosen = _chosen(wanted).order_by(entries.c.sequence.desc()).limit(limit)
        with self._engine.begin() as connection:
            return [json.loads(row) for row in connection.execute(chosen).scalars()]

    def count_kinds(self) -> dict[str, int]:
        """How many entries there are of each kind."""
        counted = select(entries.c.kind, func.count()).group_by(entries.c.kind).order_by(entries.c.kind)
        with self._engine.begin() as connection:
            return {row[0]: row[1] for row in connection.execute(counted)}

    def every(self, wanted: Wanted) -> Iterator[str]:
        """Rows as they were hashed, oldest first, up to the end that the log has now."""
        size, first = self.head().size, 0
        while first < size:
            last = min(first + PIECE, size)
            within = _chosen(wanted).where(entries.c.sequence.between(first, last - 1))
            with self._engine.begin() as connection:
                found = list(connection.execute(within.order_by(entries.c.sequence)).scalars())
            yield from found
            first = last

    def find(self, sequence: int) -> dict[str, Any]:
        """Raises NotFoundError."""
        return json.loads(self.row(sequence))

    def row(self, sequence: int) -> str:
        with self._engine.begin() as connection:
            row = connection.execute(select(entries.c.row).where(entries.c.sequence == sequence)).scalar()
        if row is None:
            raise NotFoundError(f"the audit has no entry {sequence}")
        return row

    def notes(self) -> list[str]:
        """Checkpoints, oldest first."""
        with self._engine.begin() as connection:
            return list(connection.execute(select(checkpoints.c.note).order_by(checkpoints.c.size)).scalars())

    def newest_notes(self, *, limit: int, before: int | None = None) -> list[str]:
        """Checkpoints, newest first. Args: before: of fewer rows than this."""
        chosen = select(checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(limit)
        if before is not None:
            chosen = chosen.where(checkpoints.c.size < before)
        with self._engine.begin() as connection:
            return list(connection.execute(chosen).scalars())

    def newest_note(self) -> str | None:
        return next(iter(self.newest_notes(limit=1)), None)

    def sealed(self, first: int, last: int) -> dict[int, Any]:
        """Contents of entries from `first` up to, without, `last`."""
        within = contents.c.sequence.between(first, last - 1)
        with self._engine.begin() as connection:
            return {row.sequence: row for row in connection.execute(select(contents).where(within))}

    def connection(self) -> Any:
        return self._engine.begin()

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _chosen(wanted: Wanted) -> Select[Any]:
    """Rows that are wanted, in no order."""
    chosen = select(entries.c.row)
    for column, value in ((entries.c.tenant, wanted.tenant), (entries.c.actor, wanted.actor)):
        if value is not None:
            chosen = chosen.where(column == value)
    if wanted.kind is not None:
        family = entries.c.kind.startswith(f"{wanted.kind}.", autoescape=True)
        chosen = chosen.where((entries.c.kind == wanted.kind) | family)
    if wanted.request is not None:  # not a column: a word within the row, quoted as JSON has it
        part = f'"request":{json.dumps(wanted.request)}'
        chosen = chosen.where(entries.c.row.contains(part, autoescape=True))
    if wanted.since is not None:
        chosen = chosen.where(entries.c.time >= wanted.since)
    if wanted.until is not None:
        chosen = chosen.where(entries.c.time < wanted.until)
    if wanted.before is not None:
        chosen = chosen.where(entries.c.sequence < wanted.before)
    return chosen


def _open(place: AuditPlace) -> Engine:
    if is_url(place.log):
        return connect(place.log)
    path = Path(place.log).absolute()
    if not path.is_file():
        raise InputError(f"there is no audit in {path}", remedy="name its folder with --audit-dir")
    # writable where it may be, since a writer that was killed leaves something to roll back; never changed beyond that
    mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"

    def open_file() -> sqlite3.Connection:
        return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=30, check_same_thread=False)

    return create_engine("sqlite://", creator=open_file, pool_size=4)


def _named(place: AuditPlace) -> str:
    return "the database" if is_url(place.log) else str(place.log)
