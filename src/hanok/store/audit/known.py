"""Where the servers of a store keep its audit, written into the store itself: commands that change it find the audit by that."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete, insert, select

from hanok.errors import ConfigError
from hanok.store.audit.place import AuditPlace, audit_place
from hanok.store.database import Store
from hanok.store.schema import audit_place as kept


def record_place(store: Store, place: AuditPlace | None) -> None:
    """None: they keep none from now on."""
    with store.write() as connection:
        connection.execute(delete(kept))
        if place is not None:
            row = {"id": 1, "folder": str(place.folder.resolve()), "store": _where(store)}
            connection.execute(insert(kept), row)


def recorded_place(store: Store) -> AuditPlace | None:
    """What the last server to start wrote down; of a copy of a store nothing where the audit was beside the original.

    Raises:
        ConfigError: a copy, or a store that was moved, whose audit was elsewhere.
    """
    with store.read() as connection:
        row = connection.execute(select(kept)).first()
    if row is None:
        return None
    folder, before = Path(row.folder), row.store
    if store.path is not None and before != _where(
        store
    ):  # the original's audit must not be told of its copy
        if before and folder == audit_place(Path(before)).folder:
            return None
        raise ConfigError(
            f"the audit of {before or 'a database'} is in {folder}, and {store.name} was moved or copied from there",
            remedy="say with --audit-dir where the audit of this one is, or start a server on it",
        )
    return place_of(store, folder)


def place_of(store: Store, folder: Path | None = None) -> AuditPlace:
    """Raises ConfigError as `audit_place`."""
    return audit_place(store.path or store.engine.url.render_as_string(hide_password=False), folder=folder)


def _where(store: Store) -> str:
    """Of a database behind a URL nothing: it has several names."""
    return "" if store.path is None else str(store.path.resolve())
