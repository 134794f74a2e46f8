"""What is known of who may be copying a model: score and sketch of each caller, counts in windows of an hour, a day and 30 days.

Counts lie in buckets (five minutes, an hour, a day), which are added up for a window and deleted when none reaches them any more.
Several processes may write: what one has seen is put together with what is there, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    or_,
    select,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql, sqlite

from hanok.store.database import Store
from hanok.store.review.items import Item, add_items
from hanok.store.schema import metadata
from hanok.store.tenancy import may_write

COUNTS = ("requests", "distinct_prompts", "new_cells", "alike", "logprobs", "samples", "greedy")
WINDOWS = {
    "hour": (300, 3600),
    "day": (3600, 86_400),
    "month": (86_400, 30 * 86_400),
}  # seconds of a bucket, of the window

extraction = Table(
    "extraction",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("score", Double, nullable=False),
    Column("step", String(16), nullable=False),
    Column("updated", Double, nullable=False),
    Column("sketch", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Index("ix_extraction_tenant", "tenant"),
)

extraction_counts = Table(
    "extraction_counts",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("span", Integer, primary_key=True),  # seconds of the bucket
    Column("start", BigInteger, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
    Index("ix_extraction_counts_tenant", "tenant"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """A key or a person of a tenant."""

    owner: str
    tenant: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """`updated`: seconds of the Unix epoch of the last request. `sketch`: as `hanok.guard.extraction` packs it; "": of nothing.
    `epoch`: how often the caller was cleared."""

    owner: str
    tenant: str
    score: float = 0.0
    step: str = ""
    updated: float = 0.0
    sketch: str = ""
    epoch: int = 0


Counts = Mapping[int, Mapping[str, int]]  # start of five minutes to counts
Merge = Callable[[Known], tuple[Known, Item | None]]


class ExtractionTable:
    """Over the store. Safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, caller: Caller) -> Known | None:
        with self._store.read() as connection:
            row = connection.execute(select(extraction).where(_is(extraction, caller))).mappings().first()
        return None if row is None else Known(**row)

    def all(self, *, tenant: str | None = None, least: float = 0.0) -> list[Known]:
        """The highest score first."""
        wanted = select(extraction).where(extraction.c.score >= least).order_by(extraction.c.score.desc())
        if tenant is not None:
            wanted = wanted.where(extraction.c.tenant == tenant)
        with self._store.read() as connection:
            return [Known(**row) for row in connection.execute(wanted.limit(500)).mappings()]

    def windows(self, caller: Caller, now: float) -> dict[str, dict[str, int]]:
        """Counts of the last hour, day and 30 days."""
        sums = [func.coalesce(func.sum(extraction_counts.c[name]), 0).label(name) for name in COUNTS]
        found: dict[str, dict[str, int]] = {}
        with self._store.read() as connection:
            for name, (span, seconds) in WINDOWS.items():
                inside = and_(
                    _is(extraction_counts, caller), extraction_counts.c.span == span,
                    extraction_counts.c.start > now - seconds - span,
                )  # fmt: skip
                row = connection.execute(select(*sums).where(inside)).mappings().one()
                found[name] = {key: int(value) for key, value in row.items()}
        return found

    def add(self, caller: Caller, counts: Counts, merge: Merge, now: float) -> tuple[Known, Known] | None:
        """Put together what is known and what one server has seen, where nobody comes between.

        Args:
            merge: what is known to what is known then, and what goes into the review queue with it.

        Returns:
            both; None if the caller was deleted.
        """
        key = _key(caller)
        with self._store.write() as connection:
            if not may_write(connection, caller.tenant, caller.owner):
                return None
            new = (
                _dialect(connection)
                .insert(extraction)
                .values(**asdict(Known(owner=caller.owner, tenant=caller.tenant)))
            )
            connection.execute(new.on_conflict_do_nothing())
            row = connection.execute(select(extraction).where(_is(extraction, caller)).with_for_update())
            before = Known(**row.mappings().one())
            after, item = merge(before)
            connection.execute(update(extraction).where(_is(extraction, caller)).values(**asdict(after)))
            if item is not None:
                add_items(connection, [item])
            for span, seconds in WINDOWS.values():
                _count(connection, key, counts, span)
                old = and_(
                    extraction_counts.c.span == span, extraction_counts.c.start <= now - seconds - span
                )
                connection.execute(delete(extraction_counts).where(_is(extraction_counts, caller), old))
        return before, after

    def clear(self, caller: Caller) -> bool:
        """Back to no suspicion; False if there was nothing."""
        with self._store.write() as connection:
            return clear_in(connection, caller)


def shares_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Of a window's requests."""
    requests = counts["requests"]
    return {name: round(counts[name] / requests, 4) if requests else 0.0 for name in COUNTS[1:]}


def clear_in(connection: Connection, caller: Caller) -> bool:
    """As `ExtractionTable.clear`. Its counts stay; servers that know the caller see by the epoch that it was cleared."""
    c = extraction.c
    suspected = and_(_is(extraction, caller), or_(c.score > 0, c.step != ""))
    begun = update(extraction).where(suspected).values(score=0.0, step="", sketch="", epoch=c.epoch + 1)
    return connection.execute(begun).rowcount > 0


def _count(connection: Connection, key: Mapping[str, str], every: Counts, span: int) -> None:
    buckets: dict[int, dict[str, int]] = {}
    for start, counts in every.items():
        bucket = buckets.setdefault(int(start // span * span), dict.fromkeys(COUNTS, 0))
        for name, value in counts.items():
            bucket[name] += value
    for start, counts in buckets.items():
        row: dict[str, Any] = {**key, "span": span, "start": start, **counts}
        added = {name: extraction_counts.c[name] + value for name, value in counts.items()}
        statement = _dialect(connection).insert(extraction_counts).values(**row)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["owner", "tenant", "span", "start"], set_=added)
        )


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def _key(caller: Caller) -> dict[str, str]:
    return {"owner": caller.owner, "tenant": caller.tenant}


def _is(table: Table, caller: Caller) -> Any:
    return and_(table.c.owner == caller.owner, table.c.tenant == caller.tenant)
