"""A deletion is final: who writes for a tenant or a person sees to it first, in the same transaction, that they are there, and
keeps them there until it has written. What comes behind the deletion is refused; what came before it is deleted with the rest.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, text

from hanok.errors import InputError
from hanok.store.schema import DEFAULT_TENANT, deleted_tenants, tenants, users

PERSON = "u_"  # ids of people begin with it, those of keys do not


def tenant_exists(connection: Connection, tenant: str) -> bool:
    """It is not deleted before this transaction ends."""
    if tenant == DEFAULT_TENANT:
        return True
    found = select(tenants.c.id).where(tenants.c.id == tenant).with_for_update(read=True, key_share=True)
    return connection.execute(found).first() is not None


def was_deleted(connection: Connection, tenant: str) -> bool:
    found = select(deleted_tenants.c.id).where(deleted_tenants.c.id == tenant)
    return connection.execute(found).first() is not None


def may_write(connection: Connection, tenant: str, person: str = "") -> bool:
    """Whether rows may be written for a tenant, or for a person (or a key) of it. One that was never made may have documents: a
    library works without a server."""
    if not tenant_exists(connection, tenant) and was_deleted(connection, tenant):
        return False
    if not person.startswith(PERSON):
        return True
    found = select(users.c.id).where(users.c.id == person).with_for_update(read=True, key_share=True)
    return connection.execute(found).first() is not None


def check_may_write(connection: Connection, tenant: str, person: str = "") -> None:
    """Raises InputError if the tenant or the person was deleted."""
    if not may_write(connection, tenant, person):
        raise InputError(f'the tenant "{tenant}" or its person is gone: nothing is kept for them any more')


def note_deleted(connection: Connection, tenant: str, at: float) -> None:
    if not was_deleted(connection, tenant):
        connection.execute(insert(deleted_tenants), {"id": tenant, "deleted": at})


def infer_deleted(connection: Connection) -> None:
    """From what outlives a tenant, for rows of a version that did not write down which were deleted."""
    connection.execute(
        text(
            "INSERT INTO deleted_tenants (id, deleted) SELECT tenant, 0 FROM (SELECT tenant FROM keys UNION SELECT tenant FROM "
            "usage) AS known WHERE tenant <> 'default' AND tenant NOT IN (SELECT id FROM tenants) "
            "AND tenant NOT IN (SELECT id FROM deleted_tenants)"
        )
    )
