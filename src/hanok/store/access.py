"""Who may use the server: keys, people, their sessions, tenants. Rows in, rows out; what they mean is decided above.

Each change raises one number in the same transaction, by which every process sees that what it remembers is old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            return any(
                connection.execute(select(table.c.id).limit(1)).first() is not None for table in (keys, users)
            )

    def add(self, row: Tenant | Key | User | Session) -> None:
        """Raises InputError if there is one of this id or name."""
        table = _TABLES[type(row)]
        try:
            with self.store.write() as connection:
                connection.execute(insert(table), _values(asdict(row)))
                if not isinstance(row, Session):
                    _changed(connection)
        except IntegrityError as error:
            name = row.id if isinstance(row, (Session, Tenant)) else row.name
            raise InputError(
                f'there is a {table.name.removesuffix("s")} "{name}" already', remedy="choose another name"
            ) from error

    def find(self, kind: type[Row], identifier: str) -> Row | None:
        return self._first(kind, _TABLES[kind].c.id == identifier)

    def find_user(self, name: str) -> User | None:
        return self._first(User, users.c.name == name)

    def find_identity(self, issuer: str, subject: str) -> User | None:
        return self._first(User, and_(users.c.issuer == issuer, users.c.subject == subject))

    def every(self, kind: type[Row], *, tenant: str | None = None) -> list[Row]:
        table = _TABLES[kind]
        wanted = select(table).order_by(table.c.created, table.c.id)
        if tenant is not None:
            wanted = wanted.where((table.c.id if kind is Tenant else table.c.tenant) == tenant)
        with self.store.read() as connection:
            return [_row(kind, one) for one in connection.execute(wanted).mappings()]

    def change(self, kind: type[Row], identifier: str, **values: Any) -> Row | None:
        """As it is now; None if there is none."""
        table = _TABLES[kind]
        try:
            with self.store.write() as connection:
                if values:
                    connection.execute(
                        update(table).where(table.c.id == identifier).values(**_values(values))
                    )
                    if kind is not Session:
                        _changed(connection)
                found = connection.execute(select(table).where(table.c.id == identifier)).mappings().first()
        except IntegrityError as error:
            raise InputError(
                f'there is a {table.name.removesuffix("s")} "{values.get("name")}" already',
                remedy="choose another name",
            ) from error
        return None if found is None else _row(kind, found)

    def used(self, identifiers: Mapping[str, float]) -> None:
        """Notes when keys were used last."""
        with self.store.write() as connection:
            for identifier, at in sorted(identifiers.items()):
                connection.execute(update(keys).where(keys.c.id == identifier).values(last_used=at))

    def signed_in(self, user_id: str, at: float) -> None:
        with self.store.write() as connection:
            connection.execute(update(users).where(users.c.id == user_id).values(last_login=at))

    def end_sessions(self, user_id: str, *, but: str | None = None) -> None:
        with self.store.write() as connection:
            connection.execute(
                delete(sessions).where(sessions.c.user_id == user_id, sessions.c.id != (but or ""))
            )
            _changed(connection)

    def end_session(self, identifier: str) -> None:
        with self.store.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.id == identifier))
            _changed(connection)

    def forget_sessions(self, before: float) -> None:
        """Those that expired before."""
        with self.store.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires < before))

    def delete_user(self, identifier: str) -> bool:
        with self.store.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.user_id == identifier))
            gone = connection.execute(delete(users).where(users.c.id == identifier)).rowcount
            _changed(connection)
        return gone > 0

    def delete_tenant(self, tenant: str, *, now: float) -> dict[str, int]:
        """Removes the tenant, its people and all rows that are its own; rows removed of each table.

        Those are the rows of all tables with a column `tenant`, and what depends on them. Its usage and the audit stay, which
        hold no content, and its keys, revoked and nameless: a key never comes back to life.
        """
        removed: dict[str, int] = {}
        with self.store.write() as connection:
            connection.execute(
                delete(tenants).where(tenants.c.id == tenant)
            )  # who is about to write waits, and then finds it gone
            members = select(users.c.id).where(users.c.tenant == tenant)
            gone = connection.execute(delete(sessions).where(sessions.c.user_id.in_(members))).rowcount
            removed[sessions.name] = gone
            for table in _owned_tables(connection):
                done = connection.execute(delete(table).where(table.c.tenant == tenant))
                removed[table.name] = done.rowcount
            revoked = update(keys).where(keys.c.tenant == tenant)
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
            _changed(connection)
        return removed

    def _first(self, kind: type[Row], condition: ColumnElement[bool]) -> Row | None:
        with self.store.read() as connection:
            found = connection.execute(select(_TABLES[kind]).where(condition)).mappings().first()
        return None if found is None else _row(kind, found)


def _owned_tables(connection: Connection) -> list[TableClause]:
    found = []
    inspector = inspect(connection)
    for name in inspector.get_table_names():
        columns = {one["name"] for one in inspector.get_columns(name)}
        if "tenant" in columns and name not in ("keys", "usage") and not name.startswith("audit"):
            found.append(table_named(name, column("tenant")))
    return found


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
