"""A tenant's collections, and which files are in them; folders whose files come and go."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select, update

from hanok.documents import tables as t
from hanok.documents.files import delete_file, file_of
from hanok.documents.reading import clean_name
from hanok.documents.records import Collection, File, Member
from hanok.errors import InputError, NotFoundError
from hanok.store.database import Store
from hanok.store.tenancy import check_may_write

Attributes = Mapping[str, str | float | bool]
_MOST_ATTRIBUTES, _MOST_CHARACTERS = 16, 512  # as in OpenAI's API
_NONE: Attributes = {}
_FILE = ("id", "name", "sha256", "bytes", "passages", "purpose", "created")


class Collections:
    """Safe to call from several threads and processes. An id that is unknown or another tenant's raises NotFoundError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self, tenant: str, name: str, *, metadata: Mapping[str, str] = {}, file_ids: Sequence[str] = ()
    ) -> Collection:
        """An empty collection, or one with these files; names need not differ."""
        identifier, now = f"vs_{uuid.uuid4().hex[:24]}", time.time()
        row = {
            "id": identifier, "tenant": tenant, "name": _shown(name), "created": now, "active": now, "version": 0,
            "metadata": checked(metadata),
        }  # fmt: skip
        with self._store.write() as connection:
            check_may_write(connection, tenant)
            connection.execute(insert(t.collections), row)
            for file_id in file_ids:
                _put(
                    connection, identifier, file_of(connection, tenant, file_id, held=True), {}, by_hand=True
                )
            return _collection(connection, tenant, identifier)

    def find(self, tenant: str, name: str) -> Collection:
        """By its id or, the oldest of that, its name."""
        query = (
            select(t.collections.c.id)
            .where(
                t.collections.c.tenant == tenant,
                or_(t.collections.c.id == name, t.collections.c.name == name),
            )
            .order_by(t.collections.c.created)
        )
        with self._store.read() as connection:
            identifier = connection.execute(query).scalar()
            if identifier is None:
                raise _unknown(name)
            return _collection(connection, tenant, identifier)

    def get(self, tenant: str, collection_id: str) -> Collection:
        with self._store.read() as connection:
            return _collection(connection, tenant, collection_id)

    def list(self, tenant: str) -> list[Collection]:
        """The newest first."""
        query = _query(tenant).order_by(t.collections.c.created.desc(), t.collections.c.id)
        with self._store.read() as connection:
            return [Collection(**row) for row in connection.execute(query).mappings()]

    def change(
        self, tenant: str, collection_id: str, *, name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Collection:  # fmt: skip
        """With another name or other metadata."""
        values: dict[str, Any] = {"active": time.time()}
        values |= {} if name is None else {"name": _shown(name)}
        values |= {} if metadata is None else {"metadata": checked(metadata)}
        with self._store.write() as connection:
            _collection(connection, tenant, collection_id)
            connection.execute(
                update(t.collections).where(t.collections.c.id == collection_id).values(values)
            )
            return _collection(connection, tenant, collection_id)

    def delete(self, tenant: str, collection_id: str) -> None:
        """Its files stay the tenant's."""
        with self._store.write() as connection:
            _collection(connection, tenant, collection_id)
            connection.execute(delete(t.collections).where(t.collections.c.id == collection_id))

    def attach(
        self, tenant: str, collection_id: str, file_id: str, *, attributes: Attributes = _NONE
    ) -> Member:
        """Put a file in; one that is in already gets the new attributes."""
        attributes = checked(attributes)
        with self._store.write() as connection:
            _hold(connection, tenant, collection_id)
            _put(
                connection,
                collection_id,
                file_of(connection, tenant, file_id, held=True),
                attributes,
                by_hand=True,
            )
        return self.member(tenant, collection_id, file_id)

    def member(self, tenant: str, collection_id: str, file_id: str) -> Member:
        found = self._members(tenant, collection_id, file_id)
        if found:
            return found[0]
        raise NotFoundError(f'no file "{file_id[:80]}" in this collection', remedy="list its files")

    def members(self, tenant: str, collection_id: str) -> list[Member]:
        """The newest first."""
        return self._members(tenant, collection_id, None)

    def detach(self, tenant: str, collection_id: str, file_id: str) -> None:
        """Take a file out; it stays the tenant's."""
        self.member(tenant, collection_id, file_id)
        with self._store.write() as connection:
            _hold(connection, tenant, collection_id)
            _take_out(connection, collection_id, file_id)

    def sync(
        self, tenant: str, collection_id: str, folder: str, files: Mapping[str, File]
    ) -> tuple[list[str], list[str]]:
        """Make the members that came from `folder` be `files` (path in the folder to file); both lists are paths.

        A file that no path and nobody's hand holds here any longer leaves, and is deleted where no other collection has it.

        Returns:
            the paths that are new or changed, and those that are gone.
        """
        where = (t.origins.c.collection_id == collection_id, t.origins.c.folder == folder)
        with self._store.write() as connection:
            _hold(connection, tenant, collection_id)
            query = select(t.origins.c.path, t.origins.c.file_id).where(*where)
            before = {row.path: row.file_id for row in connection.execute(query)}
            new = [path for path, file in files.items() if before.get(path) != file.id]
            gone = sorted(set(before) - set(files))
            for path in (*new, *gone):
                connection.execute(delete(t.origins).where(*where, t.origins.c.path == path))
            for path in new:
                file = file_of(connection, tenant, files[path].id, held=True)
                _put(connection, collection_id, file, {}, by_hand=False)
                origin = {"collection_id": collection_id, "folder": folder, "path": path}
                connection.execute(insert(t.origins), {**origin, "file_id": files[path].id})
                _call(connection, files[path].id, path)
            for file_id in {before[path] for path in (*new, *gone) if path in before}:
                _drop_if_loose(connection, collection_id, file_id)
        return sorted(new), gone

    def _members(self, tenant: str, collection_id: str, file_id: str | None) -> list[Member]:
        query = (
            select(t.members.c.created.label("joined"), t.members.c.attributes, *(t.files.c[name] for name in _FILE))
            .join(t.files, t.files.c.id == t.members.c.file_id)
            .where(t.members.c.collection_id == collection_id)
            .order_by(t.members.c.created.desc(), t.files.c.id)
        )  # fmt: skip
        if file_id is not None:
            query = query.where(t.members.c.file_id == file_id)
        with self._store.read() as connection:
            _collection(connection, tenant, collection_id)
            rows = connection.execute(query).mappings().all()
        return [
            Member(
                file=File(**{name: row[name] for name in _FILE}), created=row["joined"], attributes=row["attributes"]
            )
            for row in rows
        ]  # fmt: skip


def _shown(name: str) -> str:
    return "".join(character for character in name if character.isprintable())[:255]


def checked(attributes: Attributes) -> dict[str, Any]:
    """Raises InputError if there are more or longer ones than OpenAI's API takes."""
    if len(attributes) > _MOST_ATTRIBUTES:
        raise InputError(f"{len(attributes)} attributes", remedy=f"at most {_MOST_ATTRIBUTES}")
    for key, value in attributes.items():
        if len(key) > 64 or (isinstance(value, str) and len(value) > _MOST_CHARACTERS):
            raise InputError(
                f'attribute "{key[:64]}" is too long',
                remedy=f"64 characters for a key, {_MOST_CHARACTERS} for a value",
            )
    return dict(attributes)


def _query(tenant: str) -> Select[Any]:
    count, size = func.count(t.files.c.id), func.coalesce(func.sum(t.files.c.bytes), 0)
    columns = [t.collections.c[name] for name in ("id", "name", "created", "active", "metadata")]
    inside = (
        select(t.members.c.collection_id, count.label("files"), size.label("bytes"))
        .join(t.files, t.files.c.id == t.members.c.file_id)
        .group_by(t.members.c.collection_id)
        .subquery()
    )
    return (
        select(*columns, func.coalesce(inside.c.files, 0).label("files"), func.coalesce(inside.c.bytes, 0).label("bytes"))
        .outerjoin(inside, inside.c.collection_id == t.collections.c.id)
        .where(t.collections.c.tenant == tenant)
    )  # fmt: skip


def _collection(connection: Connection, tenant: str, collection_id: str) -> Collection:
    query = _query(tenant).where(t.collections.c.id == collection_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise _unknown(collection_id)
    return Collection(**row)


def _hold(connection: Connection, tenant: str, collection_id: str) -> None:
    """Nobody else changes which files are in it before this transaction ends."""
    wanted = select(t.collections.c.id).where(
        t.collections.c.tenant == tenant, t.collections.c.id == collection_id
    )
    if connection.execute(wanted.with_for_update()).first() is None:
        raise _unknown(collection_id)


def _put(
    connection: Connection, collection_id: str, file: File, attributes: Attributes, *, by_hand: bool
) -> None:
    where = (t.members.c.collection_id == collection_id, t.members.c.file_id == file.id)
    known = connection.execute(select(t.members.c.by_hand).where(*where)).first()
    if known is None:
        connection.execute(
            insert(t.members),
            {
                "collection_id": collection_id, "file_id": file.id, "created": time.time(), "attributes": dict(attributes),
                "by_hand": by_hand,
            },
        )  # fmt: skip
        _changed(connection, collection_id)
    elif by_hand:
        connection.execute(update(t.members).where(*where).values(by_hand=True, attributes=dict(attributes)))
        _changed(connection, collection_id)


def _call(connection: Connection, file_id: str, path: str) -> None:
    """A file that lies in one folder alone is called as it is called there: it may have been renamed."""
    held = connection.execute(select(func.count()).where(t.origins.c.file_id == file_id)).scalar()
    by_hand = select(t.members.c.file_id).where(t.members.c.file_id == file_id, t.members.c.by_hand.is_(True))
    if held == 1 and connection.execute(by_hand).first() is None:
        connection.execute(update(t.files).where(t.files.c.id == file_id).values(name=clean_name(path)))
        for collection_id in connection.execute(
            select(t.members.c.collection_id).where(t.members.c.file_id == file_id)
        ).scalars():
            _changed(connection, collection_id)


def _take_out(connection: Connection, collection_id: str, file_id: str) -> None:
    for table in (t.origins, t.members):
        connection.execute(
            delete(table).where(table.c.collection_id == collection_id, table.c.file_id == file_id)
        )
    _changed(connection, collection_id)


def _drop_if_loose(connection: Connection, collection_id: str, file_id: str) -> None:
    where = (t.members.c.collection_id == collection_id, t.members.c.file_id == file_id)
    if connection.execute(select(t.members.c.by_hand).where(*where)).scalar() is not False:
        return
    held = select(t.origins.c.path).where(
        t.origins.c.collection_id == collection_id, t.origins.c.file_id == file_id
    )
    if connection.execute(held).first() is None:
        _take_out(connection, collection_id, file_id)
        if (
            connection.execute(select(t.members.c.file_id).where(t.members.c.file_id == file_id)).first()
            is None
        ):
            delete_file(connection, file_id)


def _changed(connection: Connection, collection_id: str) -> None:
    connection.execute(
        update(t.collections)
        .where(t.collections.c.id == collection_id)
        .values(version=t.collections.c.version + 1, active=time.time())
    )


def _unknown(collection_id: str) -> NotFoundError:
    return NotFoundError(f'no collection "{collection_id[:80]}" here', remedy="list the collections")
