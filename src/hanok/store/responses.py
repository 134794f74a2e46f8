"""Responses that were asked to be kept (`store`), so that a later one can go on from them: by id, within a tenant."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Column, Float, String, Table, delete, insert, select

from hanok.store.database import Store
from hanok.store.schema import metadata
from hanok.store.tenancy import check_may_write

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(200), nullable=False, index=True),
    Column("created", Float, nullable=False, index=True),
    Column("body", JSON, nullable=False),  # the response object
    Column("input", JSON, nullable=False),  # its own input items
    Column("messages", JSON, nullable=False),  # the whole conversation up to its answer, without instructions
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptResponse:
    id: str
    tenant: str
    body: Mapping[str, Any]
    input: Sequence[Mapping[str, Any]]
    messages: Sequence[Mapping[str, Any]]


class ResponseTable:
    """Over the store's database. Safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, kept: KeptResponse) -> None:
        """Raises InputError if the tenant was deleted."""
        row = {
            "id": kept.id, "tenant": kept.tenant, "created": time.time(), "body": dict(kept.body),
            "input": list(kept.input), "messages": list(kept.messages),
        }  # fmt: skip
        with self._store.write() as connection:
            check_may_write(connection, kept.tenant)
            connection.execute(insert(responses), row)

    def find(self, response_id: str, *, tenant: str) -> KeptResponse | None:
        """None if there is none of this id, or it is somebody else's."""
        wanted = select(responses).where(responses.c.id == response_id, responses.c.tenant == tenant)
        with self._store.read() as connection:
            row = connection.execute(wanted).mappings().first()
        if row is None:
            return None
        return KeptResponse(
            id=row["id"], tenant=row["tenant"], body=row["body"], input=row["input"], messages=row["messages"]
        )

    def delete(self, response_id: str, *, tenant: str) -> bool:
        """Whether there was one."""
        gone = delete(responses).where(responses.c.id == response_id, responses.c.tenant == tenant)
        with self._store.write() as connection:
            return connection.execute(gone).rowcount > 0
