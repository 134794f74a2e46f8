"""The queue: what waits for a reviewer, who has it, what was decided, appeals. Rules are those of `rules.py`, tried where nobody
comes between.

A tenant's rows go with it, a person's with them; decisions and appeals go with what they are about.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from hanok.errors import NotFoundError
from hanok.store.database import Store
from hanok.store.extraction import Caller, clear_in
from hanok.store.review.items import Appeal, Decision, Item, Kind, add_items
from hanok.store.review.rules import Reviewer, check_decision, check_may_appeal, check_may_decide, settle
from hanok.store.schema import review_appeals, review_decisions, review_items
from hanok.store.tenancy import check_may_write

c, d, a = review_items.c, review_decisions.c, review_appeals.c
_MADE = (
    select(func.count()).where(d.item == c.id, d.round == c.round).correlate(review_items).scalar_subquery().label("made")
)  # fmt: skip


class Reviews:
    """Over the store's tables. `tenant` in its methods: only that one's; None for any. Safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # ---- reading --------------------------------------------------------------------------------------------------

    def find(self, identifier: str, *, tenant: str | None = None) -> Item:
        """Raises NotFoundError."""
        with self.store.read() as connection:
            return _find(connection, c.id == identifier, tenant, identifier)

    def page(
        self, *, now: float, tenant: str | None = None, states: Sequence[str] = (), kind: str | None = None,
        batch: str | None = None, reviewer: str | None = None, after: str | None = None, limit: int = 50,
    ) -> list[Item]:  # fmt: skip
        """Oldest first.

        Args:
            reviewer: who has it. after: id of the last item that is known.
        """
        where = [c.tenant == tenant] if tenant is not None else []
        where += [
            column == value for column, value in ((c.kind, kind), (c.batch, batch)) if value is not None
        ]
        if states:
            where.append(or_(*(_in_state(state, now) for state in states)))
        if reviewer is not None:
            where.append(and_(c.reviewer == reviewer, _held(now)))
        with self.store.read() as connection:
            if after is not None:
                last = connection.execute(select(c.created).where(c.id == after)).scalar()
                if last is not None:
                    where.append(or_(c.created > last, and_(c.created == last, c.id > after)))
            wanted = _items().where(*where).order_by(c.created, c.id).limit(limit)
            return [_item(row) for row in connection.execute(wanted).mappings()]

    def of_owner(self, tenant: str, owner: str, *, limit: int = 200) -> list[Item]:
        """Newest first."""
        return self._newest(tenant, owner, limit=limit)

    def of_request(self, request_id: str, *, tenant: str, owner: str) -> list[Item]:
        """Those of an answer's id, or of the HTTP request's, which clients may choose: only the owner's are looked at. Newest
        first."""
        return self._newest(tenant, owner, or_(c.request_id == request_id, c.http_id == request_id), limit=50)

    def waiting_of(self, kind: Kind, *, tenant: str, owner: str) -> Item | None:
        """The newest of its kind that is not decided."""
        found = self._newest(tenant, owner, c.kind == kind, c.state != "decided", limit=1)
        return found[0] if found else None

    def _newest(self, tenant: str, owner: str, *where: ColumnElement[bool], limit: int) -> list[Item]:
        wanted = _items().where(c.tenant == tenant, c.owner == owner, *where)
        with self.store.read() as connection:
            rows = connection.execute(wanted.order_by(c.created.desc(), c.id).limit(limit)).mappings()
            return [_item(row) for row in rows]

    def decisions(self, items: Iterable[str]) -> dict[str, list[Decision]]:
        """Oldest first, of each item that has any."""
        found: dict[str, list[Decision]] = {}
        with self.store.read() as connection:
            for some in _some(list(items)):
                wanted = select(review_decisions).where(d.item.in_(some)).order_by(d.round, d.created, d.id)
                for row in connection.execute(wanted).mappings():
                    found.setdefault(row["item"], []).append(_decision(row))
        return found

    def appeals(self, identifier: str) -> list[Appeal]:
        with self.store.read() as connection:
            wanted = select(review_appeals).where(a.item == identifier).order_by(a.created)
            return [
                Appeal(
                    item=row["item"], statement=row["statement"], round=row["round"], created=row["created"]
                )
                for row in connection.execute(wanted).mappings()
            ]

    def counts(self, *, now: float, tenant: str | None = None) -> list[Mapping[str, Any]]:
        """How many there are of each kind, state and batch: rows of kind, batch, state, held, disputed, count, created (of the
        first)."""
        held = _held(now).label("held")
        columns = (c.kind, c.batch, c.state, held, c.disputed)
        wanted = select(*columns, func.count().label("count"), func.min(c.created).label("created")).group_by(
            *columns
        )
        if tenant is not None:
            wanted = wanted.where(c.tenant == tenant)
        with self.store.read() as connection:
            return [dict(row) for row in connection.execute(wanted).mappings()]

    def outcomes(self, kind: Kind, sources: Iterable[str]) -> dict[str, Item]:
        """Source to item, of those that are in the queue; decided or not."""
        found: dict[str, Item] = {}
        with self.store.read() as connection:
            for some in _some(list(sources)):
                wanted = _items().where(c.kind == kind, c.source.in_(some))
                found |= {row["source"]: _item(row) for row in connection.execute(wanted).mappings()}
        return found

    def made_apart(self, *, tenant: str | None = None, kind: str | None = None) -> list[Decision]:
        """Of items that several people must agree on the first decisions, as many as those: made without seeing the others'.

        A third opinion is left out, as it was asked for because the first two differ, and so is what followed an appeal, as
        everything before was seen then: neither is a random sample.
        """
        place = func.row_number().over(partition_by=d.item, order_by=(d.created, d.id)).label("place")
        ranked = select(review_decisions, place).where(d.round == 0).subquery()
        wanted = (
            select(*(ranked.c[column.name] for column in d))
            .join(review_items, c.id == ranked.c.item)
            .where(c.required > 1, ranked.c.place <= c.required)
            .order_by(ranked.c.item, ranked.c.place)
        )
        for column, value in ((c.tenant, tenant), (c.kind, kind)):
            if value is not None:
                wanted = wanted.where(column == value)
        with self.store.read() as connection:
            made = [_decision(row) for row in connection.execute(wanted).mappings()]
        several = {item for item, count in Counter(one.item for one in made).items() if count > 1}
        return [one for one in made if one.item in several]

    # ---- changing -------------------------------------------------------------------------------------------------

    def add(self, items: Sequence[Item]) -> list[str]:
        """Ids of those that were not in the queue yet. Raises InputError: a tenant or a person was deleted."""
        with self.store.write() as connection:
            for tenant, owner in sorted({(item.tenant, item.owner) for item in items}):
                check_may_write(connection, tenant, owner)
            return add_items(connection, items)

    def assign(
        self, identifier: str, reviewer: Reviewer, *, until: float, now: float, tenant: str | None = None
    ) -> Item:  # fmt: skip
        """Nobody else may decide it until then. Raises ReviewError, NotFoundError."""

        def take(connection: Connection, item: Item) -> None:
            check_may_decide(item, _decisions(connection, identifier), reviewer, now=now)
            _set(connection, identifier, reviewer=reviewer.id, lease=until, updated=now)

        return self._change(identifier, tenant, take)

    def take(
        self, reviewer: Reviewer, *, until: float, now: float, tenant: str | None = None, kind: str | None = None
    ) -> Item | None:  # fmt: skip
        """The next that this reviewer may decide, theirs until then: appeals first, then the oldest; None if there is none. Of
        several who take at once each gets another."""
        with self.store.write() as connection:
            for state in ("appealed", "open"):
                where = [_in_state(state, now), *_may_decide(reviewer)]
                where += [
                    one == value for one, value in ((c.tenant, tenant), (c.kind, kind)) if value is not None
                ]
                first = select(c.id).where(*where).order_by(c.created, c.id).limit(1)
                found = connection.execute(first.with_for_update(skip_locked=True)).scalar()
                if found is not None:
                    _set(connection, found, reviewer=reviewer.id, lease=until, updated=now)
                    return _find(connection, c.id == found, tenant, found)
        return None

    def give_back(self, identifier: str, *, now: float, tenant: str | None = None) -> Item:
        return self._change(
            identifier,
            tenant,
            lambda connection, _: _set(connection, identifier, reviewer=None, lease=None, updated=now),
        )

    def decide(
        self, identifier: str, decision: Decision, reviewer: Reviewer, *, now: float, tenant: str | None = None
    ) -> Item:  # fmt: skip
        """The item as it is then, decided if the round has come to an end. Raises ReviewError, NotFoundError."""

        def note(connection: Connection, item: Item) -> None:
            before = _decisions(connection, identifier)
            check_may_decide(item, before, reviewer, now=now)
            check_decision(item, decision)
            row = {
                **asdict(decision), "item": identifier, "round": item.round, "created": now, "reviewer": reviewer.id,
                "senior": reviewer.senior, "id": f"rd-{uuid.uuid4().hex}",
            }  # fmt: skip
            connection.execute(insert(review_decisions), row)
            made = [one for one in before if one.round == item.round] + [_decision(row)]
            final, disputed = settle(made, item.required)
            values: dict[str, Any] = {"disputed": disputed, "reviewer": None, "lease": None, "updated": now}
            if final is not None:
                values |= {"state": "decided", "outcome": final.verdict, "correction": final.correction}
            _set(connection, identifier, **values)
            if item.kind == "extraction" and values.get("outcome") == "reject":
                clear_in(connection, Caller(owner=item.owner, tenant=item.tenant))

        return self._change(identifier, tenant, note)

    def appeal(self, identifier: str, statement: str, *, now: float, tenant: str, owner: str) -> Item:
        """Raises NotFoundError if it is somebody else's, ReviewError."""

        def note(connection: Connection, item: Item) -> None:
            if item.owner != owner:
                raise missing(identifier)
            check_may_write(connection, tenant, owner)
            made = connection.execute(select(func.count()).where(a.item == identifier)).scalar_one()
            check_may_appeal(item, made)
            number = item.round + (item.state == "decided")
            row = {
                "id": f"ra-{uuid.uuid4().hex}", "item": identifier, "created": now, "round": number, "statement": statement,
            }  # fmt: skip
            connection.execute(insert(review_appeals), row)
            _set(
                connection, identifier, state="appealed", round=number, outcome=None, correction=None, disputed=False,
                reviewer=None, lease=None, updated=now,
            )  # fmt: skip

        return self._change(identifier, tenant, note)

    def _change(
        self, identifier: str, tenant: str | None, change: Callable[[Connection, Item], None]
    ) -> Item:  # fmt: skip
        with self.store.write() as connection:
            lock = select(c.id).where(c.id == identifier).with_for_update()
            connection.execute(lock)
            change(connection, _find(connection, c.id == identifier, tenant, identifier))
            return _find(connection, c.id == identifier, tenant, identifier)


def _items() -> Select[Any]:
    return select(review_items, _MADE)


def _find(connection: Connection, condition: ColumnElement[bool], tenant: str | None, name: str) -> Item:
    wanted = _items().where(condition)
    if tenant is not None:
        wanted = wanted.where(c.tenant == tenant)
    row = connection.execute(wanted).mappings().first()
    if row is None:
        raise missing(name)
    return _item(row)


def missing(name: str) -> NotFoundError:
    return NotFoundError(f'no review "{name[:80]}"', remedy="`hanok review list` shows them")


def _held(now: float) -> ColumnElement[bool]:
    return and_(c.state != "decided", c.lease.is_not(None), c.lease > now)


def _in_state(state: str, now: float) -> ColumnElement[bool]:
    if state == "assigned":
        return _held(now)
    free = or_(c.lease.is_(None), c.lease <= now)
    return c.state == state if state == "decided" else and_(c.state == state, free)


def _may_decide(reviewer: Reviewer) -> list[ColumnElement[bool]]:
    """Of items that nobody has: what `check_may_decide` says, as conditions."""
    own = and_(d.item == c.id, d.reviewer == reviewer.id)
    if reviewer.alone:
        return [~exists().where(own, d.round == c.round)]
    return [c.owner != reviewer.id, ~exists().where(own, d.round <= c.round)]


def _set(connection: Connection, identifier: str, **values: Any) -> None:
    connection.execute(update(review_items).where(c.id == identifier).values(**values))


def _decisions(connection: Connection, identifier: str) -> list[Decision]:
    wanted = select(review_decisions).where(d.item == identifier).order_by(d.round, d.created, d.id)
    return [_decision(row) for row in connection.execute(wanted).mappings()]


def _item(row: RowMapping) -> Item:
    return Item(**row)


def _decision(row: RowMapping | Mapping[str, Any]) -> Decision:
    return Decision(**{name: value for name, value in row.items() if name != "id"})


def _some(values: list[str], size: int = 500) -> Iterable[list[str]]:
    """Databases take only so many parameters at once."""
    return (values[start : start + size] for start in range(0, len(values), size))
