"""Who may use the server: keys, people, their sessions, tenants. Rows in, rows out; what they mean is decided above.

Each change raises one number in the same transaction, by which every process sees that what it remembers is old. It raises it
first: in PostgreSQL too one such change waits for the other, so what a change has looked at is so until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    TableClause,
    and_,
    column,
    delete,
    func,
    insert,
    inspect,
    select,
    update,
)  # fmt: skip
from sqlalchemy import table as table_named
from sqlalchemy.exc import IntegrityError

from hanok.errors import InputError
from hanok.store.database import Store
from hanok.store.schema import DEFAULT_TENANT, identity_version, keys, sessions, tenants, users
from hanok.store.tenancy import note_deleted, tenant_exists, was_deleted

Limits = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    id: str
    name: str = ""
    limits: Limits = field(default_factory=dict)
    created: float = 0.0
    suspended: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """`id` is public; `digest` what is kept of the whole. None: no restriction, but of `origins`: none."""

    id: str
    digest: str
    name: str
    tenant: str = DEFAULT_TENANT
    role: str = "user"
    scopes: Sequence[str] | None = None
    models: Sequence[str] | None = None
    origins: Sequence[str] | None = None
    networks: Sequence[str] | None = None
    priority: int = 0
    limits: Limits = field(default_factory=dict)
    created: float = 0.0
    created_by: str = ""
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """`password`: its argon2id hash; None for somebody who signs in with the provider `issuer`, as `subject`."""

    id: str
    name: str
    tenant: str = DEFAULT_TENANT
    role: str = "user"
    password: str | None = None
    issuer: str | None = None
    subject: str | None = None
    limits: Limits = field(default_factory=dict)
    created: float = 0.0
    disabled: float | None = None
    last_login: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """`id`: SHA-256 of the cookie."""

    id: str
    user_id: str
    csrf: str
    created: float
    expires: float


Row = TypeVar("Row", Tenant, Key, User, Session)
Check = Callable[[Connection], None]  # raises where something may not be, as it is now
Allow = Callable[[Any], None]  # raises where a row may not be as it would be
_TABLES: Mapping[type, Table] = {Tenant: tenants, Key: keys, User: users, Session: sessions}
_LISTS = ("scopes", "models", "origins", "networks")


class Access:
    """The tables of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def version(self) -> int:
        with self.store.read() as connection:
            return connection.execute(select(identity_version.c.version)).scalar_one()

    def anybody(self) -> bool:
        """Whether there is, or was, a key or a person."""
        with self.store.read() as connection:
            return anybody(connection)

    def add(self, row: Tenant | Key | User, *, check: Check | None = None) -> None:
        """Raises InputError if there is one of this id or name, there was such a tenant, or its tenant is gone."""
        table = _TABLES[type(row)]
        try:
            with self.store.write() as connection:
                _changed(connection)
                if check is not None:
                    check(connection)
                _check_tenant(connection, row)
                connection.execute(insert(table), _values(asdict(row)))
        except IntegrityError as error:
            name = row.id if isinstance(row, Tenant) else row.name
            raise InputError(
                f'there is a {table.name.removesuffix("s")} "{name}" already', remedy="choose another name"
            ) from error

    def ensure(self, tenant: Tenant) -> None:
        """There is one of its id from here on."""
        with self.store.write() as connection:
            _changed(connection)
            if find(connection, Tenant, tenant.id) is None:
                connection.execute(insert(tenants), _values(asdict(tenant)))

    def find(self, kind: type[Row], identifier: str) -> Row | None:
        with self.store.read() as connection:
            return find(connection, kind, identifier)

    def find_user(self, name: str) -> User | None:
        return self._first(User, users.c.name == name)

    def find_identity(self, issuer: str, subject: str) -> User | None:
        return self._first(User, and_(users.c.issuer == issuer, users.c.subject == subject))

    def every(self, kind: type[Row], *, tenant: str | None = None) -> list[Row]:
        with self.store.read() as connection:
            return every(connection, kind, tenant=tenant)

    def change(
        self, kind: type[Row], identifier: str, *, check: Check | None = None, allow: Allow | None = None, **values: Any
    ) -> Row | None:  # fmt: skip
        """As it is now; None if there is none."""
        table = _TABLES[kind]
        with self.store.write() as connection:
            if values:
                if kind is not Session:
                    _changed(connection)
                if check is not None:
                    check(connection)
                connection.execute(update(table).where(table.c.id == identifier).values(**_values(values)))
            found = find(connection, kind, identifier)
            if allow is not None and found is not None:
                allow(found)
            return found

    def replace_key(self, identifier: str, make: Callable[[Key], tuple[Key, Mapping[str, Any]]]) -> Key:
        """Args: make: of the key as it is now, its successor and what changes of the key itself."""
        with self.store.write() as connection:
            _changed(connection)
            key = find(connection, Key, identifier)
            assert key is not None  # keys are never deleted
            fresh, changes = make(key)
            _check_tenant(connection, fresh)
            connection.execute(insert(keys), _values(asdict(fresh)))
            connection.execute(update(keys).where(keys.c.id == identifier).values(**_values(changes)))
        return fresh

    def used(self, identifiers: Mapping[str, float]) -> None:
        """Notes when keys were used last."""
        with self.store.write() as connection:
            for identifier, at in sorted(identifiers.items()):
                connection.execute(update(keys).where(keys.c.id == identifier).values(last_used=at))

    def open_session(self, session: Session, user: User) -> bool:
        """Whether the person is still as `user` says: not gone, shut out, or with another password. Sessions that expired are
        forgotten."""
        same = and_(
            users.c.id == user.id, users.c.disabled.is_(None), users.c.password.is_not_distinct_from(user.password)
        )  # fmt: skip
        with self.store.write() as connection:
            signed_in = update(users).where(same).values(last_login=session.created)
            if connection.execute(signed_in).rowcount == 0:  # the row is held from here on
                return False
            connection.execute(delete(sessions).where(sessions.c.expires < session.created))
            connection.execute(insert(sessions), asdict(session))
        return True

    def end_sessions(self, user_id: str, *, but: str | None = None) -> None:
        with self.store.write() as connection:
            _changed(connection)
            connection.execute(
                delete(sessions).where(sessions.c.user_id == user_id, sessions.c.id != (but or ""))
            )

    def end_session(self, identifier: str) -> None:
        with self.store.write() as connection:
            _changed(connection)
            connection.execute(delete(sessions).where(sessions.c.id == identifier))

    def delete_user(self, identifier: str, *, check: Check | None = None) -> dict[str, int]:
        """Removes the person and all rows that are their own, in tables with a column `owner`; rows removed of each table."""
        removed: dict[str, int] = {}
        with self.store.write() as connection:
            _changed(connection)
            if check is not None:
                check(connection)
            done = connection.execute(delete(users).where(users.c.id == identifier))
            removed[users.name] = done.rowcount  # who is about to write waits, and then finds the person gone
            done = connection.execute(delete(sessions).where(sessions.c.user_id == identifier))
            removed[sessions.name] = done.rowcount
            for table in _tables_with(connection, "owner"):
                done = connection.execute(delete(table).where(table.c.owner == identifier))
                removed[table.name] = done.rowcount
        return removed

    def delete_tenant(self, tenant: str, *, now: float) -> dict[str, int]:
        """Removes the tenant, its people and all rows that are its own, for good; rows removed of each table.

        Those are the rows of all tables with a column `tenant`, and what depends on them. Its usage and the audit stay, which
        hold no content, and its keys, revoked and nameless: a key never comes back to life.
        """
        removed: dict[str, int] = {}
        with self.store.write() as connection:
            _changed(connection)
            # who is about to write waits, and then finds it gone
            connection.execute(delete(tenants).where(tenants.c.id == tenant))
            note_deleted(connection, tenant, now)
            members = select(users.c.id).where(users.c.tenant == tenant)
            gone = connection.execute(delete(sessions).where(sessions.c.user_id.in_(members))).rowcount
            removed[sessions.name] = gone
            for table in _tables_with(connection, "tenant"):
                if table.name in ("keys", "usage") or table.name.startswith("audit"):
                    continue
                done = connection.execute(delete(table).where(table.c.tenant == tenant))
                removed[table.name] = done.rowcount
            mine = keys.c.tenant == tenant
            connection.execute(
                select(keys.c.id).where(mine).order_by(keys.c.id).with_for_update()
            )  # as `used`
            revoked = update(keys).where(mine)
            done = connection.execute(
                revoked.values(
                    revoked=func.coalesce(keys.c.revoked, now),
                    name="",
                    digest="",
                    origins=None,
                    networks=None,
                )
            )
            removed[keys.name] = done.rowcount
        return removed

    def _first(self, kind: type[Row], condition: ColumnElement[bool]) -> Row | None:
        with self.store.read() as connection:
            found = connection.execute(select(_TABLES[kind]).where(condition)).mappings().first()
        return None if found is None else _row(kind, found)


def anybody(connection: Connection) -> bool:
    return any(connection.execute(select(table.c.id).limit(1)).first() is not None for table in (keys, users))


def find(connection: Connection, kind: type[Row], identifier: str) -> Row | None:
    table = _TABLES[kind]
    found = connection.execute(select(table).where(table.c.id == identifier)).mappings().first()
    return None if found is None else _row(kind, found)


def every(connection: Connection, kind: type[Row], *, tenant: str | None = None) -> list[Row]:
    table = _TABLES[kind]
    wanted = select(table).order_by(table.c.created, table.c.id)
    if tenant is not None:
        wanted = wanted.where((table.c.id if kind is Tenant else table.c.tenant) == tenant)
    return [_row(kind, one) for one in connection.execute(wanted).mappings()]


def _check_tenant(connection: Connection, row: Tenant | Key | User) -> None:
    if isinstance(row, Tenant):
        if was_deleted(connection, row.id):
            raise InputError(f'there was a tenant "{row.id}"', remedy="choose a name that was not used")
    elif not tenant_exists(connection, row.tenant):
        raise InputError(f'no tenant "{row.tenant}"', remedy=f"`hanok tenants create {row.tenant}`")


def _tables_with(connection: Connection, name: str) -> list[TableClause]:
    inspector = inspect(connection)
    return [
        table_named(table, column(name))
        for table in sorted(inspector.get_table_names())
        if any(one["name"] == name for one in inspector.get_columns(table))
    ]


def _changed(connection: Connection) -> None:
    connection.execute(update(identity_version).values(version=identity_version.c.version + 1))


def _row(kind: type[Row], found: Mapping[Any, Any]) -> Row:
    return kind(**{one.name: found[one.name] for one in fields(kind)})


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    """With lists and dicts, which JSON has, for other sequences and mappings."""

    def plain(name: str, value: Any) -> Any:
        if name == "limits":
            return dict(value)
        return list(value) if name in _LISTS and value is not None else value

    return {name: plain(name, value) for name, value in values.items()}
