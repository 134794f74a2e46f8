"""Making, changing and ending keys, people and tenants: the same for the command line and the administrator's routes."""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection

from hanok.errors import ConfigError, InputError
from hanok.server.admission.limits import check_limits
from hanok.server.identity.passwords import Passwords
from hanok.server.identity.roles import check_role, check_scopes
from hanok.server.identity.secrets import key_digest, new_key
from hanok.server.principal import HOUSE
from hanok.store.access import Access, Allow, Check, Key, Tenant, User, every, find
from hanok.store.tenancy import PERSON

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Pepper = Callable[[], bytes]


def anything(_row: Any) -> None:
    """Whoever has the store may make of it what they like."""


class Management:
    """Over the tables of a store. Methods that give rights take `allow`: told of the row as it would be, it raises where that may
    not be, and then nothing has changed.

    Args:
        pepper: called when a key is made.
    """

    def __init__(self, access: Access, pepper: Pepper, *, passwords: Passwords | None = None) -> None:
        self.access, self._pepper, self.passwords = access, pepper, passwords or Passwords()

    # ---- keys -----------------------------------------------------------------------------------------------------

    def create_key(
        self, name: str, *, created_by: str = "", allow: Allow = anything, **values: Any
    ) -> tuple[Key, str]:
        """The key as kept, and the key itself, which nobody can show again.

        Args:
            values: of `Key`: tenant, role, scopes, models, origins, networks, expires, priority, limits.
        """
        identifier, whole = new_key()
        checked = _check_key({"name": name, **values})
        self._check_tenant(checked.get("tenant", HOUSE))
        key = Key(
            id=identifier, digest=key_digest(self._pepper(), whole), created=time.time(), created_by=created_by, **checked
        )  # fmt: skip
        allow(key)
        self.access.add(key)
        return key, whole

    def change_key(self, key: Key, *, allow: Allow = anything, **values: Any) -> Key:
        changed = self.access.change(Key, key.id, allow=allow, **_check_key(values))
        assert changed is not None  # keys are never deleted
        return changed

    def rotate_key(
        self, key: Key, *, grace: float = 0.0, created_by: str = "", allow: Allow = anything
    ) -> tuple[Key, str]:
        """A new key like this one, which goes on for `grace` seconds."""
        if grace < 0:
            raise ConfigError(f"grace = {grace}", remedy="it must be 0 or more seconds")
        identifier, whole = new_key()
        digest, now = key_digest(self._pepper(), whole), time.time()

        def successor(key: Key) -> tuple[Key, dict[str, Any]]:
            if key.revoked is not None:
                raise InputError(f"the key {key.id} was revoked", remedy="make a new one")
            fresh = replace(
                key, id=identifier, digest=digest, created=now, created_by=created_by, last_used=None
            )
            allow(fresh)
            ends = now + grace if key.expires is None else min(key.expires, now + grace)
            return fresh, {"expires": ends} if grace else {"revoked": now}

        return self.access.replace_key(key.id, successor), whole

    def revoke_key(self, key: Key) -> Key:
        if key.revoked is not None:
            return key
        changed = self.access.change(Key, key.id, revoked=time.time())
        assert changed is not None
        return changed

    # ---- people ---------------------------------------------------------------------------------------------------

    def create_user(
        self, name: str, *, password: str | None = None, role: str = "user", tenant: str = HOUSE,
        limits: Mapping[str, Any] = {}, issuer: str | None = None, subject: str | None = None, check: Check | None = None,
        allow: Allow = anything,
    ) -> User:  # fmt: skip
        self._check_tenant(tenant)
        user = User(
            id=f"{PERSON}{secrets.token_hex(8)}", name=_check_name(name), tenant=tenant, role=check_role(role),
            password=None if password is None else self.passwords.hash(password), issuer=issuer, subject=subject,
            limits=check_limits(limits), created=time.time(),
        )  # fmt: skip
        allow(user)
        self.access.add(user, check=check)
        return user

    def change_user(
        self, user: User, *, but_session: str | None = None, allow: Allow = anything, **values: Any
    ) -> User:
        """Args: values: role, limits; password; disabled (true or false). What takes rights away ends the sessions."""
        changes: dict[str, Any] = {}
        if "role" in values:
            changes["role"] = check_role(values["role"])
        if "limits" in values:
            changes["limits"] = check_limits(values["limits"] or {})
        if "password" in values:
            changes["password"] = self.passwords.hash(values["password"])
        if "disabled" in values:
            changes["disabled"] = time.time() if values["disabled"] else None
        takes_away = changes.get("disabled") or changes.get("role", "administrator") != "administrator"
        check = partial(_check_not_last, identifier=user.id) if takes_away else None
        changed = self.access.change(User, user.id, check=check, allow=allow, **changes)
        if changed is None:
            raise InputError(f"the user {user.id} is gone")
        if "password" in changes or changes.get("disabled"):
            self.access.end_sessions(user.id, but=but_session)
        return changed

    def delete_user(self, user: User) -> dict[str, int]:
        """With their sessions and all that is their own; rows removed of each table."""
        return self.access.delete_user(user.id, check=partial(_check_not_last, identifier=user.id))

    # ---- tenants --------------------------------------------------------------------------------------------------

    def create_tenant(self, identifier: str, *, name: str = "", limits: Mapping[str, Any] = {}) -> Tenant:
        if not _TENANT.fullmatch(identifier):
            raise ConfigError(
                f'a tenant called "{identifier[:80]}"', remedy="small letters, digits, . _ -; 64 at most"
            )
        tenant = Tenant(
            id=identifier, name=_check_name(name or identifier), limits=check_limits(limits), created=time.time()
        )  # fmt: skip
        self.access.add(tenant)
        return tenant

    def change_tenant(self, identifier: str, **values: Any) -> Tenant:
        """Args: values: name, limits, suspended (true or false)."""
        changes: dict[str, Any] = {}
        if values.get("name") is not None:
            changes["name"] = _check_name(values["name"])
        if "limits" in values:
            changes["limits"] = check_limits(values["limits"] or {})
        if "suspended" in values:
            if identifier == HOUSE and values["suspended"]:
                raise InputError(f'"{HOUSE}" runs the server and cannot be suspended')
            changes["suspended"] = time.time() if values["suspended"] else None
        if identifier == HOUSE:  # it exists without a row
            self.access.ensure(Tenant(id=HOUSE, name=HOUSE, created=time.time()))
        tenant = self.access.change(Tenant, identifier, **changes)
        if tenant is None:
            raise InputError(f'no tenant "{identifier}"', remedy="`hanok tenants list` shows them")
        return tenant

    def delete_tenant(self, identifier: str) -> dict[str, int]:
        if identifier == HOUSE:
            raise InputError(f'"{HOUSE}" runs the server and cannot be deleted')
        self._check_tenant(identifier)
        return self.access.delete_tenant(identifier, now=time.time())

    def _check_tenant(self, identifier: str) -> None:
        if identifier != HOUSE and self.access.find(Tenant, identifier) is None:
            raise InputError(f'no tenant "{identifier}"', remedy=f"`hanok tenants create {identifier}`")


def _check_not_last(connection: Connection, identifier: str) -> None:
    """Somebody can always let the others in, and a server that asks for keys never stops asking for them."""
    user = find(connection, User, identifier)
    if user is None or user.tenant != HOUSE or user.role != "administrator" or user.disabled is not None:
        return
    others = [one for one in every(connection, User, tenant=HOUSE) if one.id != identifier]
    if not any(one.role == "administrator" and one.disabled is None for one in others):
        raise InputError(
            f'"{user.name}" is the last administrator of the tenant "{HOUSE}"', remedy="make another one first"
        )  # fmt: skip


def _check_key(values: Mapping[str, Any]) -> dict[str, Any]:
    """With all that is unset left out."""
    checked = dict(values)
    if "name" in checked:
        _check_name(checked["name"])
    if "role" in checked:
        check_role(checked["role"])
    if "limits" in checked:
        checked["limits"] = check_limits(checked["limits"] or {})
    check_scopes(checked.get("scopes"))
    for network in checked.get("networks") or ():
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ConfigError(f'network "{network}" ({error})', remedy="as 192.0.2.0/24") from error
    for origin in checked.get("origins") or ():
        if not _is_origin(origin):
            raise ConfigError(f'origin "{origin}"', remedy="as https://app.example.org, without a path")
    if not -1000 <= checked.get("priority", 0) <= 1000:
        raise ConfigError(f"priority = {checked['priority']}", remedy="from -1000 to 1000")
    return checked


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and text == f"{parts.scheme}://{parts.netloc}"
            and text == text.lower() and "@" not in text
        )  # fmt: skip
    except ValueError:
        return False


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or not name.strip():
        raise ConfigError(f"name = {name[:80]!r}", remedy="1 to 200 printable characters")
    return name


def split_words(words: Sequence[str] | None) -> list[str] | None:
    """Of an option that may be given several times or with commas; None if it was not."""
    found = [part.strip() for word in words or () for part in word.split(",") if part.strip()]
    return found or None
