"""Content under keys that can be destroyed: AES-256-GCM, one data key a subject, wrapped by the master key.

What a ciphertext belongs to (log, row, subject) is authenticated with it, so that none can be moved to another row.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, and_, insert, or_, select, update

from hanok.errors import ConfigError, NotFoundError
from hanok.store.audit.entry import canonical
from hanok.store.audit.tables import contents, subjects

_NONCE = 12
EVERYBODY = "*"  # in place of a name: the tenant was deleted


class Vault:
    """Args: origin: of the log."""

    def __init__(self, master: bytes, origin: str) -> None:
        self._master, self._origin = AESGCM(master), origin

    def key_for(
        self, connection: Connection, *, tenant: str, name: str, now: float
    ) -> tuple[str, AESGCM] | None:
        """Of a subject, made if there never was one; None for one that was forgotten: that is final."""
        of_it = and_(subjects.c.tenant == tenant, or_(subjects.c.name == name, subjects.c.name == EVERYBODY))
        found = connection.execute(select(subjects.c.id, subjects.c.wrapped).where(of_it)).all()
        if any(one.wrapped is None for one in found):
            return None
        if found:
            return found[0].id, self._unwrapped(found[0].id, found[0].wrapped)
        identifier, key = f"s_{secrets.token_hex(8)}", secrets.token_bytes(32)
        nonce = secrets.token_bytes(_NONCE)
        wrapped = nonce + self._master.encrypt(nonce, key, self._bound("key", identifier))
        connection.execute(
            insert(subjects),
            {"id": identifier, "tenant": tenant, "name": name, "wrapped": wrapped, "created": now},
        )
        return identifier, AESGCM(key)

    def seal(
        self, key: AESGCM, content: Mapping[str, Any], *, sequence: int, subject: str
    ) -> tuple[bytes, bytes]:
        """Nonce and ciphertext."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce, key.encrypt(nonce, canonical(content), self._bound("content", f"{sequence}\n{subject}"))

    def open(self, connection: Connection, sequence: int) -> dict[str, Any]:
        """Raises NotFoundError where there is none or its key was destroyed, ConfigError where the master key does not fit."""
        joined = select(contents, subjects.c.wrapped).join(
            subjects, subjects.c.id == contents.c.subject, isouter=True
        )
        found = connection.execute(joined.where(contents.c.sequence == sequence)).first()
        if found is None:
            raise NotFoundError(f"entry {sequence} has no content")
        if found.wrapped is None:
            raise NotFoundError(f"the content of entry {sequence} was forgotten: its key is destroyed")
        key = self._unwrapped(found.subject, found.wrapped)
        bound = self._bound("content", f"{sequence}\n{found.subject}")
        try:
            return json.loads(key.decrypt(found.nonce, found.ciphertext, bound))
        except InvalidTag as error:
            raise ConfigError(f"the content of entry {sequence} was changed") from error

    def _unwrapped(self, identifier: str, wrapped: bytes) -> AESGCM:
        try:
            key = self._master.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], self._bound("key", identifier))
        except InvalidTag as error:
            raise ConfigError(
                "the master key does not open the keys of this audit",
                remedy="restore the master.key that it was made with",
            ) from error
        return AESGCM(key)

    def _bound(self, what: str, to: str) -> bytes:
        return f"hanok audit {what} 1\n{self._origin}\n{to}".encode()


def destroy(connection: Connection, *, tenant: str, name: str | None, now: float) -> list[str]:
    """The keys of one subject, or of all of a tenant. Their public names. What comes later of them is not kept any more."""
    which = subjects.c.tenant == tenant
    if name is not None:
        which = and_(which, subjects.c.name == name)
    alive = and_(which, subjects.c.wrapped.is_not(None))
    gone = list(connection.execute(select(subjects.c.id).where(alive)).scalars())
    connection.execute(update(subjects).where(alive).values(wrapped=None, destroyed=now))
    mark = EVERYBODY if name is None else name
    marked = and_(subjects.c.tenant == tenant, subjects.c.name == mark)
    if connection.execute(select(subjects.c.id).where(marked)).first() is None:
        identifier = f"s_{secrets.token_hex(8)}"
        row = {"id": identifier, "tenant": tenant, "name": mark, "created": now, "destroyed": now}
        connection.execute(insert(subjects), row)
    return gone
