"""`hanok keys`, `hanok users` and `hanok tenants`: they work on the store itself, whether a server runs or not."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from hanok.cli.places import audit_of, open_store
from hanok.errors import ConfigError, InputError
from hanok.reporting import table
from hanok.server.identity.directory import Directory
from hanok.server.identity.management import Management, split_words
from hanok.server.identity.objects import key_object, tenant_object, user_object
from hanok.store.access import Key, Tenant, User
from hanok.store.database import Store

Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], str]]  # heading -> what stands below it
Name = Annotated[str, tyro.conf.Positional]
Words = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


# ---- keys -------------------------------------------------------------------------------------------------------------


def create_key(
    name: Name, role: str = "user", tenant: str = "default", scope: Words = (), model: Words = (), origin: Words = (),
    network: Words = (), days: float | None = None, priority: int = 0, limit: Words = (), store: str | None = None,
    served: Path | None = None, audit_dir: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make a key; it is shown this once.

    Args:
        name: for people to know it by.
        role: viewer, user, reviewer or administrator.
        tenant: whose documents, cache, limits and logs.
        scope: part of what the role may: chat, embeddings, documents, feedback, usage, reports, metrics, admin; default all.
        model: a name that it may ask for; default all.
        origin: of web pages that may use it, as https://app.example.org.
        network: that it may come from, as 192.0.2.0/24; default any.
        days: until it expires; default never.
        priority: of its requests; lower goes first.
        limit: as requests_per_minute=60.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    with open_store(store, served) as opened:
        key, whole = _management(opened, audit_dir).create_key(
            name, role=role, tenant=tenant, scopes=split_words(scope), models=split_words(model),
            origins=split_words(origin), networks=split_words(network), priority=priority, limits=parse_limits(limit),
            expires=None if days is None else time.time() + days * 86_400, created_by="command line",
        )  # fmt: skip
        print(whole)
        print(
            f'the key of "{key.name}" ({key.role}, tenant {key.tenant}); it is not shown again',
            file=sys.stderr,
        )
        return {**key_object(key), "secret": whole}


def list_keys(
    tenant: str | None = None, store: str | None = None, served: Path | None = None
) -> dict[str, Any]:
    """Keys, without their secrets.

    Args:
        tenant: only its own.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    columns: Columns[Key] = {
        "id": lambda key: key.id, "name": lambda key: key.name, "tenant": lambda key: key.tenant, "role": lambda key: key.role,
        "state": _state, "expires": lambda key: _date(key.expires), "last used": lambda key: _date(key.last_used),
        "limits": lambda key: _limits(key.limits),
    }  # fmt: skip
    with open_store(store, served) as opened:
        keys = Directory(opened).access.every(Key, tenant=tenant)
    return _listed("keys", "keys", keys, columns, key_object)


def revoke_key(
    key: Name, store: str | None = None, served: Path | None = None, audit_dir: Path | None = None
) -> dict[str, Any]:
    """End a key: running servers refuse it within a second.

    Args:
        key: its id.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    with open_store(store, served) as opened:
        management = _management(opened, audit_dir)
        revoked = management.revoke_key(_key(management, key))
    print(f'"{revoked.name}" ({revoked.id}) is revoked', file=sys.stderr)
    return key_object(revoked)


def rotate_key(
    key: Name,
    grace: float = 0.0,
    store: str | None = None,
    served: Path | None = None,
    audit_dir: Path | None = None,
) -> dict[str, Any]:
    """Make a new key like this one, which ends.

    Args:
        key: its id.
        grace: seconds that the old one goes on.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    with open_store(store, served) as opened:
        management = _management(opened, audit_dir)
        fresh, whole = management.rotate_key(_key(management, key), grace=grace, created_by="command line")
    print(whole)
    print(f"the new key is {fresh.id}; {key} ends in {grace:g} seconds", file=sys.stderr)
    return {**key_object(fresh), "secret": whole}


# ---- people -----------------------------------------------------------------------------------------------------------


def create_user(
    name: Name, role: str = "user", tenant: str = "default", limit: Words = (), password_stdin: bool = False,
    store: str | None = None, served: Path | None = None, audit_dir: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Let somebody sign in on the page; asks for the password.

    Args:
        name: to sign in with.
        role: viewer, user, reviewer or administrator.
        tenant: whose documents, cache, limits and logs.
        limit: as requests_per_minute=60.
        password_stdin: read the password from standard input.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    with open_store(store, served) as opened:
        user = _management(opened, audit_dir).create_user(
            name, password=_password(password_stdin), role=role, tenant=tenant, limits=parse_limits(limit)
        )
    print(f'"{user.name}" may sign in as {user.role} of {user.tenant}', file=sys.stderr)
    return user_object(user)


def list_users(
    tenant: str | None = None, store: str | None = None, served: Path | None = None
) -> dict[str, Any]:
    """People who may sign in.

    Args:
        tenant: only its own.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    with open_store(store, served) as opened:
        users = Directory(opened).access.every(User, tenant=tenant)
    columns: Columns[User] = {
        "id": lambda user: user.id, "name": lambda user: user.name, "tenant": lambda user: user.tenant,
        "role": lambda user: user.role, "state": lambda user: "disabled" if user.disabled else "",
        "last signed in": lambda user: _date(user.last_login),
    }  # fmt: skip
    return _listed("users", "people", users, columns, user_object)


def change_user(
    name: Name, role: str | None = None, password: bool = False, password_stdin: bool = False, disable: bool = False,
    enable: bool = False, store: str | None = None, served: Path | None = None, audit_dir: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Give somebody another role or password, or shut them out.

    Args:
        name: that they sign in with.
        role: viewer, user, reviewer or administrator.
        password: ask for a new one; all sessions end.
        password_stdin: read the new password from standard input.
        disable: they cannot sign in; all sessions end.
        enable: they can again.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    if disable and enable:
        raise ConfigError("--disable and --enable", remedy="give one of them")
    changes: dict[str, Any] = {} if role is None else {"role": role}
    if password or password_stdin:
        changes["password"] = _password(password_stdin)
    if disable or enable:
        changes["disabled"] = disable
    with open_store(store, served) as opened:
        management = _management(opened, audit_dir)
        return user_object(management.change_user(_user(management, name), **changes))


def delete_user(
    name: Name,
    yes: bool = False,
    store: str | None = None,
    served: Path | None = None,
    audit_dir: Path | None = None,
) -> dict[str, Any]:
    """End an account, with its sessions, conversations, presets, kept answers and feedback. Documents are the tenant's and stay.

    Args:
        name: that they sign in with.
        yes: do it: nothing brings it back.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    if not yes:
        raise ConfigError(f'deleting "{name}" cannot be undone', remedy="add --yes")
    with open_store(store, served) as opened:
        management = _management(opened, audit_dir)
        user = _user(management, name)
        return _deleted(name, user.id, management.delete_user(user))


# ---- tenants ----------------------------------------------------------------------------------------------------------


def create_tenant(
    tenant: Name,
    name: str = "",
    limit: Words = (),
    store: str | None = None,
    served: Path | None = None,
    audit_dir: Path | None = None,
) -> dict[str, Any]:
    """Make a tenant: documents, cache, feedback, limits and people of its own.

    Args:
        tenant: its id: small letters and digits.
        name: for people to read; default the id.
        limit: of all its keys and people together, as monthly_budget=20.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    with open_store(store, served) as opened:
        return tenant_object(
            _management(opened, audit_dir).create_tenant(tenant, name=name, limits=parse_limits(limit))
        )


def list_tenants(store: str | None = None, served: Path | None = None) -> dict[str, Any]:
    """Tenants and their limits.

    Args:
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
    """
    with open_store(store, served) as opened:
        tenants = Directory(opened).access.every(Tenant)
    columns: Columns[Tenant] = {
        "id": lambda tenant: tenant.id, "name": lambda tenant: tenant.name,
        "state": lambda tenant: "suspended" if tenant.suspended else "", "limits": lambda tenant: _limits(tenant.limits),
    }  # fmt: skip
    return _listed("tenants", "tenants besides the house's own", tenants, columns, tenant_object)


def change_tenant(
    tenant: Name, limit: Words = (), suspend: bool = False, resume: bool = False, store: str | None = None,
    served: Path | None = None, audit_dir: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Suspend a tenant, let it go on, or set its limits.

    Args:
        tenant: its id.
        limit: as monthly_budget=20; these replace the ones it had.
        suspend: its keys and people are refused until it is resumed.
        resume: they may come in again.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    if suspend and resume:
        raise ConfigError("--suspend and --resume", remedy="give one of them")
    changes: dict[str, Any] = {"limits": parse_limits(limit)} if limit else {}
    if suspend or resume:
        changes["suspended"] = suspend
    with open_store(store, served) as opened:
        return tenant_object(_management(opened, audit_dir).change_tenant(tenant, **changes))


def delete_tenant(
    tenant: Name,
    yes: bool = False,
    store: str | None = None,
    served: Path | None = None,
    audit_dir: Path | None = None,
) -> dict[str, Any]:
    """Delete a tenant with its people, keys, documents, conversations, answers and feedback, for good: running servers refuse
    what is written for it later, and its name is not given again. Its usage stays, which holds no content.

    Args:
        tenant: its id.
        yes: do it: nothing brings it back.
        store: the database, a file or postgresql://USER@HOST/NAME; default: that of the served model.
        served: the model or run whose database is meant; default runs/quickstart.
        audit_dir: folder of the audit; default: where the last server on this store kept it.
    """
    if not yes:
        raise ConfigError(f'deleting "{tenant}" cannot be undone', remedy="add --yes")
    with open_store(store, served) as opened:
        return _deleted(tenant, tenant, _management(opened, audit_dir).delete_tenant(tenant))


# ---- what they share --------------------------------------------------------------------------------------------------


def parse_limits(words: Iterable[str]) -> dict[str, float]:
    """Of NAME=VALUE."""
    limits: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise ConfigError(f'limit "{word}"', remedy="as requests_per_minute=60") from error
    return limits


def _management(store: Store, audit_dir: Path | None) -> Management:
    directory = Directory(store)
    directory.trail.log = audit_of(store, audit_dir)
    return directory.management


def _listed(
    name: str, title: str, rows: Sequence[Row], columns: Columns[Row], described: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:  # fmt: skip
    """Shows a table; the result of the command."""
    table(f"{len(rows)} {title}", tuple(columns), [[show(row) for show in columns.values()] for row in rows])
    return {name: [described(row) for row in rows]}


def _deleted(name: str, identifier: str, removed: Mapping[str, int]) -> dict[str, Any]:
    table(f"{name} is deleted", ("table", "rows"), [[one, count] for one, count in removed.items()])
    return {"id": identifier, "deleted": True, "removed": dict(removed)}


def _user(management: Management, name: str) -> User:
    user = management.access.find_user(name)
    if user is None:
        raise InputError(f'no user "{name}"', remedy="`hanok users list` shows them")
    return user


def _key(management: Management, identifier: str) -> Key:
    key = management.access.find(Key, identifier)
    if key is None:
        raise InputError(f'no key "{identifier}"', remedy="`hanok keys list` shows their ids")
    return key


def _password(from_input: bool, ask: Callable[[str], str] = getpass.getpass) -> str:
    if from_input:
        return sys.stdin.readline().rstrip("\n")
    first = ask("password: ")
    if ask("once more: ") != first:
        raise InputError("these were two different passwords", remedy="try again")
    return first


def _state(key: Key) -> str:
    if key.revoked is not None:
        return "revoked"
    return "expired" if key.expires is not None and key.expires < time.time() else ""


def _date(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _limits(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in limits.items())
