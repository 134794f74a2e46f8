"""Copies of a store: made while it is used, checked when they are made, put back into an empty place.

SQLite's copy is a database file, by its online backup. PostgreSQL's is a file of JSON lines, compressed with zstandard, that
says for every table how many rows there are and what their hash is; it can be put back into SQLite too. Both hold the same rows;
neither holds the pepper, which belongs elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import zstandard
from sqlalchemy import MetaData, Table, func, insert, inspect, select, text

from hanok.errors import ConfigError, InputError
from hanok.store.audit.tables import metadata as audit
from hanok.store.connection import Place, is_url
from hanok.store.database import Store
from hanok.store.schema import SCHEMA_VERSION
from hanok.store.tenancy import infer_deleted

FORMAT = 1
_OURS = ("alembic_version", "schema_version", "identity_version")  # made by opening
_ROWS = 500  # at a time


def backup(store: Store, target: Path) -> dict[str, int]:
    """Rows of each table in the copy. The target appears whole or not at all.

    Raises:
        InputError: there is such a file, or the copy does not stand its check.
    """
    if target.exists():
        raise InputError(f"{target} exists", remedy="give another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    draft.unlink(missing_ok=True)
    try:
        if store.path is not None:
            counts = _copy_sqlite(store.path, draft)
        else:
            counts = _dump(store, draft)
        descriptor = os.open(draft, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        draft.chmod(0o600)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return counts


def restore(source: Path, place: Place) -> dict[str, int]:
    """Rows of each table, put back into a place where there is nothing yet.

    Raises:
        InputError: a damaged copy, one of a newer version, or a place that is not empty.
    """
    if _is_sqlite(source):
        return _restore_sqlite(source, place)
    head, counts = _verify(source)
    if head["version"] > SCHEMA_VERSION:
        raise InputError(
            f"{source} has tables of version {head['version']}, this version of hanok knows {SCHEMA_VERSION}",
            remedy="upgrade hanok",
        )
    with Store(place) as store:
        if set(counts) & set(audit.tables):  # in PostgreSQL an audit lies beside the other tables
            audit.create_all(store.engine)
        tables = _tables(store)
        for name in counts:
            if name not in tables:
                raise InputError(f'{source} has a table "{name}" that this version of hanok does not know')
        with store.write() as connection:
            for name, table in tables.items():
                if (
                    name not in _OURS
                    and connection.execute(select(func.count()).select_from(table)).scalar_one()
                ):
                    raise InputError(f"{store.name} is not empty", remedy="restore into a new database")
            order = [table for table in tables.values() if table.name in counts and table.name not in _OURS]
            rows = _by_table(source)
            for table in order:  # parents first
                for some in _some(rows.get(table.name, ())):
                    connection.execute(insert(table), [_unpacked(row, table) for row in some])
            infer_deleted(connection)  # a copy of an older version does not say which tenants were
            version = next(iter(rows.get("identity_version", [])), None)
            if version is not None:
                connection.execute(
                    text("UPDATE identity_version SET version = :version"), {"version": version["version"]}
                )
    return counts


def check(store: Store) -> dict[str, int]:
    """Rows of each table, after the database's own tests. Raises InputError if it is damaged."""
    with store.read() as connection:
        if store.dialect == "sqlite":
            found = connection.execute(text("PRAGMA integrity_check")).scalars().all()
            if list(found) != ["ok"]:
                raise InputError(f"{store.name} is damaged: {found[0]}", remedy="restore a backup")
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
            if broken:
                raise InputError(
                    f"{store.name}: rows of {broken[0][0]} refer to none", remedy="restore a backup"
                )
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in sorted(_tables(store).items())
        }


# ---- SQLite -----------------------------------------------------------------------------------------------------------


def _copy_sqlite(path: Path, draft: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(draft)) as copy:
        source.backup(copy, pages=256, sleep=0.01)
        copy.execute("PRAGMA journal_mode=DELETE")
    return _counts(draft)


def _restore_sqlite(source: Path, place: Place) -> dict[str, int]:
    if is_url(place):
        raise ConfigError("a SQLite copy cannot be put into PostgreSQL", remedy="restore it into a file")
    target = Path(place)
    if target.exists():
        raise InputError(f"{target} exists", remedy="restore into a new file")
    counts = _counts(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    draft.unlink(missing_ok=True)
    _copy_sqlite(source, draft)
    with Store(draft):  # refuses a newer one; brings an older one up
        pass
    draft.rename(target)
    return counts


def _counts(path: Path) -> dict[str, int]:
    """After SQLite's own test of the whole file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise InputError(f"{path} is damaged", remedy="make another copy")
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
            return {
                name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
                for (name,) in sorted(names.fetchall())
            }
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} is damaged ({error})", remedy="take another copy") from error


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\x00"
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


# ---- any database, as lines --------------------------------------------------------------------------------------------


def _dump(store: Store, draft: Path) -> dict[str, int]:
    """One state of all tables: a line that says what this is, lines of rows, a line of counts and hashes."""
    counts: dict[str, int] = {}
    hashes: dict[str, str] = {}
    with draft.open("wb") as raw, zstandard.ZstdCompressor(level=9).stream_writer(raw) as packed:
        with store.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            packed.write(_line({"hanok": "store", "format": FORMAT, "version": SCHEMA_VERSION}))
            for name, table in _tables(store).items():
                digest, count = hashlib.sha256(), 0
                for row in connection.execute(select(table).order_by(*table.primary_key.columns)).mappings():
                    line = _line({"table": name, "row": {key: _packed(value) for key, value in row.items()}})
                    digest.update(line)
                    packed.write(line)
                    count += 1
                counts[name], hashes[name] = count, digest.hexdigest()
        packed.write(_line({"counts": counts, "hashes": hashes}))
    _verify(draft)
    return counts


def _verify(source: Path) -> tuple[Mapping[str, Any], dict[str, int]]:
    """The head, and rows of each table. Raises InputError for a copy that is cut short or changed."""
    damaged = InputError(f"{source} is damaged or no copy of a store", remedy="take another copy")
    head: Mapping[str, Any] | None = None
    end: Mapping[str, Any] | None = None
    counts: dict[str, int] = {}
    digests: dict[str, Any] = {}
    try:
        for line in _lines(source):
            found = json.loads(line)
            if head is None:
                head = found
                if found.get("hanok") != "store" or found.get("format", FORMAT + 1) > FORMAT:
                    raise damaged
            elif "counts" in found:
                end = found
            elif end is not None:
                raise damaged
            else:
                name = found["table"]
                counts[name] = counts.get(name, 0) + 1
                digests.setdefault(name, hashlib.sha256()).update(line)
    except (zstandard.ZstdError, ValueError, KeyError, AttributeError, OSError) as error:
        raise damaged from error
    if head is None or end is None:
        raise damaged
    for name, count in end["counts"].items():
        digest = digests.get(name, hashlib.sha256()).hexdigest()
        if counts.get(name, 0) != count or digest != end["hashes"][name]:
            raise damaged
    return head, dict(end["counts"])


def _by_table(source: Path) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(source):
        found = json.loads(line)
        if "table" in found:
            rows.setdefault(found["table"], []).append(found["row"])
    return rows


def _lines(source: Path) -> Iterator[bytes]:
    with (
        source.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as packed,
    ):
        yield from io.BufferedReader(packed)  # type: ignore[arg-type]


def _tables(store: Store) -> dict[str, Table]:
    """Those that are there, parents first."""
    metadata = MetaData()
    metadata.reflect(store.engine, only=lambda name, _: not name.startswith("sqlite_"))
    assert set(inspect(store.engine).get_table_names()) >= set(metadata.tables)
    return {table.name: table for table in metadata.sorted_tables}


def _line(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _packed(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, (bytes, memoryview)) else value


def _unpacked(row: Mapping[str, Any], table: Table) -> dict[str, Any]:
    def plain(name: str, value: Any) -> Any:
        binary = isinstance(value, dict) and list(value) == ["base64"]
        return (
            base64.b64decode(value["base64"]) if binary and table.c[name].type.python_type is bytes else value
        )

    return {name: plain(name, value) for name, value in row.items()}


def _some(rows: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]
