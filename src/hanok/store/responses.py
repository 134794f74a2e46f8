"""Responses that were asked to be kept (`store`), so that a later one can go on from them: by id, within a tenant.

One that is answered in the background is there from its beginning. Its server writes down again and again that it still works on
it (`beat`): whoever finds that it has stopped doing so knows that nobody will finish it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Float,
    String,
    Table,
    delete,
    false,
    insert,
    select,
    update,
)

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
    Column("beat", Double),  # when its server last worked on it; null once it has ended
    Column("cancelled", Boolean, nullable=False, server_default=false()),  # somebody wants it to end
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptResponse:
    id: str
    tenant: str
    body: Mapping[str, Any]
    input: Sequence[Mapping[str, Any]]
    messages: Sequence[Mapping[str, Any]]
    beat: float | None = None


class ResponseTable:
    """Over the store's database. Safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, kept: KeptResponse) -> None:
        """Raises InputError if the tenant was deleted."""
        row = {
            "id": kept.id, "tenant": kept.tenant, "created": time.time(), "body": dict(kept.body),
            "input": list(kept.input), "messages": list(kept.messages), "beat": kept.beat,
        }  # fmt: skip
        with self._store.write() as connection:
            check_may_write(connection, kept.tenant)
            connection.execute(insert(responses), row)

    def find(self, response_id: str, *, tenant: str) -> KeptResponse | None:
        """None if there is none of this id, or it is somebody else's."""
        wanted = select(responses).where(_of(response_id, tenant))
        with self._store.read() as connection:
            row = connection.execute(wanted).mappings().first()
        if row is None:
            return None
        return KeptResponse(
            id=row["id"], tenant=row["tenant"], body=row["body"], input=row["input"], messages=row["messages"],
            beat=row["beat"],
        )  # fmt: skip

    def finish(self, kept: KeptResponse) -> None:
        """One that was added with a beat has ended; nothing if it was deleted meanwhile, or was found to be lost: how one has
        ended is told once."""
        done = {"body": dict(kept.body), "messages": list(kept.messages), "beat": None}
        not_ended = _of(kept.id, kept.tenant) & responses.c.beat.is_not(None)
        with self._store.write() as connection:
            connection.execute(update(responses).where(not_ended), done)

    def beat(self, under_way: Mapping[str, Mapping[str, Any]], now: float) -> set[str]:
        """Args: under_way: id to body of those that this process works on; one that has ended meanwhile stays as it ended.

        Returns:
            those that are to end: somebody asked for that, has deleted them, or has found them to be lost.
        """
        with self._store.write() as connection:
            for name, body in under_way.items():
                not_ended = (responses.c.id == name) & responses.c.beat.is_not(None)
                connection.execute(update(responses).where(not_ended), {"body": dict(body), "beat": now})
            wanted = select(responses.c.id).where(
                responses.c.id.in_(under_way),
                responses.c.cancelled.is_(False),
                responses.c.beat.is_not(None),
            )
            return set(under_way) - set(connection.execute(wanted).scalars())

    def cancel(self, response_id: str, *, tenant: str) -> None:
        """Whoever works on it is to end it."""
        with self._store.write() as connection:
            connection.execute(update(responses).where(_of(response_id, tenant)), {"cancelled": True})

    def lose(self, kept: KeptResponse, body: Mapping[str, Any]) -> bool:
        """Nobody works on it any more, and this becomes its body; False if somebody does after all."""
        as_seen = _of(kept.id, kept.tenant) & (responses.c.beat == kept.beat)
        with self._store.write() as connection:
            done = connection.execute(update(responses).where(as_seen), {"body": dict(body), "beat": None})
            return done.rowcount > 0

    def delete(self, response_id: str, *, tenant: str) -> bool:
        """Whether there was one."""
        gone = delete(responses).where(_of(response_id, tenant))
        with self._store.write() as connection:
            return connection.execute(gone).rowcount > 0


def _of(response_id: str, tenant: str) -> ColumnElement[bool]:
    return (responses.c.id == response_id) & (responses.c.tenant == tenant)
