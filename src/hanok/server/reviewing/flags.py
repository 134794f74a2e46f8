"""A listener to verdicts: requests that the guard flagged go into the review queue, behind the answer, without its words.

One row for each request, with what all its rules said. Of a tenant `MOST_OPEN` wait at most; what comes beyond is in the audit
alone, so that nobody fills the queue, or the disk, by being blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, func, select, update

from hanok.errors import InputError
from hanok.guard.verdicts import VerdictEvent
from hanok.reporting import log
from hanok.server.operations.requests import CURRENT
from hanok.store.database import Store
from hanok.store.review.items import Item, add_items, find_source
from hanok.store.schema import review_items
from hanok.store.tenancy import may_write

MOST_OPEN = 2000
_MOST_FINDINGS = 16


class FlagQueue:
    """Args: actions: of verdicts that are taken in, as they are now. reviewers: who must agree."""

    def __init__(
        self, store: Store, actions: Callable[[], Sequence[str]], reviewers: Callable[[], int]
    ) -> None:
        self._store, self._actions, self._reviewers = store, actions, reviewers
        self._held: list[Item] = []
        self._writing: asyncio.Task[None] | None = None

    def tell(self, event: VerdictEvent) -> None:
        """On the event loop; does not wait."""
        if event.action not in self._actions():
            return
        request = CURRENT.get()
        finding = {
            "rule": event.rule, "action": event.action, "direction": event.direction, "where": event.where,
            "span": None if event.span is None else list(event.span), "reason": event.reason, "count": event.count,
            "told": event.told,
        }  # fmt: skip
        self._held.append(
            Item(
                kind="flag", source=event.request_id, tenant=event.tenant, owner=event.key_id, request_id=event.request_id,
                http_id="" if request is None else request.id, title=f"{event.rule}: {event.reason}",
                body={"findings": [finding]}, required=self._reviewers(),
            )
        )  # fmt: skip
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def flush(self) -> None:
        """What was told before is in the queue."""
        while self._writing is not None and not self._writing.done():
            await self._writing

    async def _write(self) -> None:
        while self._held:
            held, self._held = self._held, []
            try:
                await asyncio.to_thread(self._put, held)
            except Exception as error:  # the answer is given; the audit has it too
                log.error("%d verdicts did not get into the review queue", len(held), exc_info=error)

    def _put(self, items: Sequence[Item]) -> None:
        with self._store.write() as connection:
            room: dict[str, int] = {}
            for item in items:
                if item.tenant not in room:
                    room[item.tenant] = MOST_OPEN - _waiting(connection, item.tenant)
                try:
                    if (
                        not _add_to(connection, item)
                        and room[item.tenant] > 0
                        and may_write(connection, item.tenant, item.owner)
                    ):
                        room[item.tenant] -= len(add_items(connection, [item]))
                except InputError as error:  # one that cannot be kept is not the others'
                    log.error("a verdict did not get into the review queue: %s", error)


def _add_to(connection: Connection, item: Item) -> bool:
    """Whether the request is in the queue already; its findings are then put together."""
    row = find_source(connection, item.kind, item.source, item.tenant)
    if row is None:
        return False
    findings: list[Any] = [*row["body"].get("findings", ()), *item.body["findings"]]
    if len(findings) > _MOST_FINDINGS:  # what whoever asked was told of is what they may appeal against
        findings = sorted(findings, key=lambda one: not one.get("told", True))[:_MOST_FINDINGS]
    c = review_items.c
    connection.execute(update(review_items).where(c.id == row["id"]).values(body={"findings": findings}))
    return True


def _waiting(connection: Connection, tenant: str) -> int:
    c = review_items.c
    wanted = select(func.count()).where(c.tenant == tenant, c.kind == "flag", c.state != "decided")
    return connection.execute(wanted).scalar_one()
