"""Saved conversations and system-prompt presets, each person's own.

A row carries a version that grows with every write. A writer who names the version that it saw is refused when somebody
wrote meanwhile; a writer who names none wins.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    delete,
    or_,
    select,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql, sqlite

from hanok.store.connection import writing
from hanok.store.schema import metadata
from hanok.store.tenancy import check_may_write


def _owned(name: str) -> Table:
    """A table of rows that belong to one person of one tenant. `words`: what is searched, folded."""
    table = Table(
        name,
        metadata,
        Column("tenant", String(64), primary_key=True),
        Column("owner", String(64), primary_key=True),
        Column("id", String(64), primary_key=True),
        Column("title", Text, nullable=False),
        Column("created", Float, nullable=False),
        Column("updated", Float, nullable=False),
        Column("version", Integer, nullable=False),
        Column("body", JSON, nullable=False),
        Column("words", Text, nullable=False),
    )
    Index(f"{name}_newest", table.c.tenant, table.c.owner, table.c.updated, table.c.id)
    return table


conversations = _owned("conversations")
presets = _owned("presets")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rows."""

    tenant: str
    person: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """One row. `body` is empty in lists."""

    id: str
    title: str
    created: float
    updated: float
    version: int
    body: Mapping[str, Any]


class VersionConflictError(Exception):
    """Somebody wrote meanwhile. `version`: the one that is kept; 0 where the row is gone."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


class Shelf:
    """One of the two tables. Safe to call from several threads."""

    def __init__(self, engine: Engine, table: Table) -> None:
        self._engine, self._writer, self._table = engine, writing(engine), table

    def page(
        self, owner: Owner, *, words: str = "", limit: int = 50, after: tuple[float, str] | None = None
    ) -> list[Saved]:
        """Newest first, at most `limit`, without bodies.

        Args:
            words: every one of them occurs in the title or the text. after: `updated` and id of the last row that is known.
        """
        c = self._table.c
        where = [
            *self._mine(owner),
            *(c.words.contains(one, autoescape=True) for one in folded(words).split()),
        ]
        if after is not None:
            where.append(or_(c.updated < after[0], and_(c.updated == after[0], c.id < after[1])))
        asked = (
            select(c.id, c.title, c.created, c.updated, c.version)
            .where(*where)
            .order_by(c.updated.desc(), c.id.desc())
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [Saved(**row, body={}) for row in connection.execute(asked).mappings()]

    def find(self, owner: Owner, identifier: str) -> Saved | None:
        with self._engine.connect() as connection:
            return self._find(connection, owner, identifier)

    def every(self, owner: Owner) -> Iterator[Saved]:
        """With bodies, oldest first."""
        c = self._table.c
        asked = select(c.id).where(*self._mine(owner)).order_by(c.created, c.id)
        with self._engine.connect() as connection:
            identifiers = connection.execute(asked).scalars().all()
        for identifier in identifiers:  # one at a time: a writer waits for nobody who reads slowly
            if (row := self.find(owner, identifier)) is not None:
                yield row

    def put(
        self, owner: Owner, identifier: str, *, title: str, body: Mapping[str, Any], words: Sequence[str], version: int | None
    ) -> Saved:  # fmt: skip
        """Write the row as a whole.

        Args:
            version: the one that the writer saw, 0 for a row that must be new; None writes in any case.

        Raises:
            VersionConflictError: the row has another version.
            InputError: the owner was deleted.
        """
        now = time.time()
        values = {
            "title": title, "updated": now, "body": dict(body), "words": folded("\n".join((title, *words))),
        }  # fmt: skip
        while True:
            with self._writer.begin() as connection:
                check_may_write(connection, owner.tenant, owner.person)
                if self._write(connection, owner, identifier, values, version):
                    row = self._find(connection, owner, identifier)
                    assert row is not None
                    return row
            # who wants to write in any case found one that was deleted a moment later: once more

    def _write(
        self, connection: Connection, owner: Owner, identifier: str, values: Mapping[str, Any], version: int | None
    ) -> bool:  # fmt: skip
        """Whether it did; in one statement each, so that nobody comes between. Raises VersionConflictError."""
        c, mine = self._table.c, [*self._mine(owner), self._table.c.id == identifier]
        if not version:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            new = {"tenant": owner.tenant, "owner": owner.person, "id": identifier, "version": 1}
            row = {**new, **values, "created": values["updated"]}
            added = dialect.insert(self._table).values(row).on_conflict_do_nothing().returning(c.version)
            if connection.execute(added).first() is not None:
                return True
        seen = [] if version is None else [c.version == version]
        changed = update(self._table).where(*mine, *seen).values(**values, version=c.version + 1)
        if connection.execute(changed).rowcount:
            return True
        if version is not None:
            there = self._find(connection, owner, identifier)
            raise VersionConflictError(0 if there is None else there.version)
        return False

    def delete(self, owner: Owner, identifier: str) -> bool:
        """Whether there was one."""
        with self._writer.begin() as connection:
            asked = delete(self._table).where(*self._mine(owner), self._table.c.id == identifier)
            return connection.execute(asked).rowcount > 0

    def _find(self, connection: Connection, owner: Owner, identifier: str) -> Saved | None:
        c = self._table.c
        asked = select(c.id, c.title, c.created, c.updated, c.version, c.body).where(
            *self._mine(owner), c.id == identifier
        )
        row = connection.execute(asked).mappings().first()
        return None if row is None else Saved(**row)

    def _mine(self, owner: Owner) -> list[ColumnElement[bool]]:
        return [self._table.c.tenant == owner.tenant, self._table.c.owner == owner.person]


def folded(text: str) -> str:
    """As it is searched: composed Hangul, small letters, nothing that a database refuses."""
    return unicodedata.normalize("NFC", text).casefold().replace("\0", " ")
