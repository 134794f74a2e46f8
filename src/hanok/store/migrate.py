"""Bringing a database to the tables of this version: all steps in one transaction, under a lock, so that a process that dies
leaves the old tables and one that waits finds the new ones."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text

from hanok.errors import InputError
from hanok.reporting import log
from hanok.store.connection import writing
from hanok.store.schema import SCHEMA_VERSION, schema_version

_LOCK = 0x48414E4F4B  # a number of our own among PostgreSQL's advisory locks


def migrate(engine: Engine, *, name: str) -> tuple[int, int]:
    """Versions before (0: an empty database) and after. Raises InputError if the tables are newer than this program."""
    with engine.connect() as connection:
        before = _version(connection)
    if before < SCHEMA_VERSION:
        with writing(engine).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            before = _version(connection)  # somebody else may have been quicker
            if before < SCHEMA_VERSION:
                _upgrade(connection, before)
                log.debug("%s: tables of version %d brought to %d", name, before, SCHEMA_VERSION)
    if before > SCHEMA_VERSION:
        raise InputError(
            f"{name} has tables of version {before}, this version of hanok knows {SCHEMA_VERSION}",
            remedy="upgrade hanok",
        )
    return before, SCHEMA_VERSION


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return connection.execute(select(schema_version.c.version)).scalar() or 0


def _upgrade(connection: Connection, before: int) -> None:
    from alembic import command  # only where there is something to do: it takes a while to load
    from alembic.config import Config

    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    if before and not inspect(connection).has_table("alembic_version"):
        command.stamp(config, f"{before:04}")  # made before there were steps
    command.upgrade(config, "head")
