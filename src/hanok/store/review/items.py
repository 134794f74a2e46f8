"""One thing to be reviewed, the decisions about it and the appeals against them, as rows.

    open ── decisions ──> decided ── appeal ──> appealed ── decisions ──> decided
      └ disagreement: open again, `disputed`

An item is "assigned" while somebody's lease of it runs; that is computed, so that a lease that ran out needs nobody to end it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.dialects import postgresql, sqlite

from hanok.store.schema import DEFAULT_TENANT, review_items

Kind = Literal["feedback", "flag", "poison", "extraction"]
State = Literal["open", "assigned", "appealed", "decided"]
Verdict = Literal["accept", "correct", "reject"]
KINDS: Sequence[Kind] = ("feedback", "flag", "poison", "extraction")
NO_ANSWER: Sequence[Kind] = (
    "flag",
    "extraction",
)  # kinds that are no answer of a model: a finding stands or does not
VERDICTS: Sequence[Verdict] = ("accept", "correct", "reject")
TITLE = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Args: as the table has them (`hanok.store.schema`); `body`: {"findings": [...], "row": {...}}, what there is of it.

    Attributes:
        made: decisions in this round.
    """

    kind: Kind
    source: str
    id: str = ""
    created: float = 0.0
    updated: float = 0.0
    tenant: str = DEFAULT_TENANT
    owner: str = ""
    request_id: str = ""
    http_id: str = ""
    model_hash: str = ""
    batch: str = ""
    title: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    required: int = 1
    state: str = "open"
    round: int = 0
    disputed: bool = False
    reviewer: str | None = None
    lease: float | None = None
    outcome: Verdict | None = None
    correction: str | None = None
    made: int = 0

    def holder(self, now: float) -> str | None:
        """Who has it at this moment."""
        return (
            self.reviewer if self.lease is not None and self.lease > now and self.state != "decided" else None
        )

    def state_at(self, now: float) -> str:
        return "assigned" if self.holder(now) is not None else self.state


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """`senior`: of an administrator, who may settle a dispute alone."""

    reviewer: str
    verdict: Verdict
    reason: str
    correction: str | None = None
    senior: bool = False
    item: str = ""
    round: int = 0
    created: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Appeal:
    item: str
    statement: str
    round: int
    created: float


def add_items(connection: Connection, items: Iterable[Item]) -> list[str]:
    """Ids of those that are new: of a source that is in the queue already nothing changes."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    added = []
    for item in items:
        now = item.created or time.time()
        row = {name: value for name, value in asdict(item).items() if name != "made"}
        row |= {
            "id": item.id or f"rv-{uuid.uuid4().hex}", "created": now, "updated": item.updated or now,
            "title": titled(item.title),
        }  # fmt: skip
        new = dialect.insert(review_items).values(row).on_conflict_do_nothing().returning(review_items.c.id)
        added += connection.execute(new).scalars().all()
    return added


def find_source(connection: Connection, kind: Kind, source: str, tenant: str) -> RowMapping | None:
    """Locked until the transaction ends."""
    c = review_items.c
    wanted = (
        select(review_items).where(c.tenant == tenant, c.kind == kind, c.source == source).with_for_update()
    )
    return connection.execute(wanted).mappings().first()


def titled(text: str) -> str:
    """The first words, on one line."""
    plain = " ".join(text.replace("\0", " ").split())
    return plain if len(plain) <= TITLE else plain[: TITLE - 1] + "…"


def question_in(messages: Sequence[Mapping[str, Any]]) -> str:
    """What was asked last."""
    asked = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    return asked[-1] if asked else ""
