"""A database by its place: a file of SQLite, or PostgreSQL by a URL."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hanok.errors import ConfigError, InputError
from hanok.reporting import log

# earlier versions can lose a committed write-ahead log when two processes recover at once
_WAL_IS_SAFE = (3, 51, 3)
_WRITES = "hanok_writes"
Place = Path | str


def connect(place: Place) -> Engine:
    """Its statements raise InputError for text with a NUL character, which PostgreSQL cannot keep and others cut at.

    Raises:
        ConfigError: a URL of another kind of database, or its driver is not installed.
    """
    if is_url(place):
        engine = _postgresql(str(place))
    else:
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = _sqlite(path)
    event.listen(engine, "before_cursor_execute", _refuse_nul)
    return engine


def _refuse_nul(_c: Any, _cursor: Any, _statement: str, parameters: Any, _context: Any, many: bool) -> None:
    for row in parameters if many else (parameters,):
        for value in row.values() if isinstance(row, Mapping) else row or ():
            if isinstance(value, str) and "\0" in value:
                raise InputError(f"{value[:80]!r} has a NUL character", remedy="leave it out")


def is_url(place: Place) -> bool:
    return isinstance(place, str) and "://" in place


def writing(engine: Engine) -> Engine:
    """The same connections, for transactions that write: in SQLite such a one takes the lock as it begins, so that nothing it
    has read can change before it writes."""
    options: dict[str, Any] = {_WRITES: True}
    if (
        engine.dialect.name == "postgresql"
    ):  # whatever its default is: who waited for a row sees what the other made of it
        options["isolation_level"] = "READ COMMITTED"
    return engine.execution_options(**options)


def reading(engine: Engine) -> Engine:
    """The same connections, for transactions that only read: all statements of one see the same state."""
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _sqlite(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})
    wal = sqlite3.sqlite_version_info >= _WAL_IS_SAFE
    log.debug("SQLite %s: journal_mode=%s", sqlite3.sqlite_version, "WAL" if wal else "DELETE")

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        # FULL does not flush the folder after a journal is unlinked: a power failure could bring it back, and take with it what
        # was acknowledged (F25 in docs/reliability.md shows it)
        cursor.execute(f"PRAGMA synchronous={'FULL' if wal else 'EXTRA'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA trusted_schema=OFF")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(place: str) -> Engine:
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise ConfigError(f"the store's URL cannot be read ({error})", remedy=_FORM) from error
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigError(f'a store of the kind "{url.get_backend_name()}"', remedy=_FORM)
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError("PostgreSQL needs its driver", remedy="pip install 'hanok[postgres]'")
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=8,
        connect_args={"connect_timeout": 10, "application_name": "hanok"},
    )
    return engine


_FORM = "give a file, or postgresql://USER@HOST/NAME"
