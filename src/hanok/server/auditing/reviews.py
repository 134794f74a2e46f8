"""The review queue as ever, and every step in the audit before it is acknowledged. Reasons and statements are sealed under the
key of whose row it is: their deletion takes them along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hanok.server.auditing.trail import Trail
from hanok.store.database import Store
from hanok.store.review.items import Decision, Item
from hanok.store.review.queue import Reviews
from hanok.store.review.rules import Reviewer


class AuditedReviews(Reviews):
    """`Reviews`, told of by `trail`."""

    def __init__(self, store: Store, trail: Trail) -> None:
        super().__init__(store)
        self.trail = trail

    def add(self, items: Sequence[Item]) -> list[str]:
        self.trail.ready()
        added = super().add(items)
        for tenant in sorted({item.tenant for item in items}) if added else ():
            facts = {
                "added": len(added),
                "kinds": sorted({item.kind for item in items}),
                "batches": _batches(items),
            }
            self.trail.sure("review.add", tenant=tenant, facts=facts)
        return added

    def assign(self, identifier: str, reviewer: Reviewer, **values: Any) -> Item:
        self.trail.ready()
        item = super().assign(identifier, reviewer, **values)
        self._of("review.assign", item, {"to": reviewer.id})
        return item

    def take(self, reviewer: Reviewer, **values: Any) -> Item | None:
        self.trail.ready()
        item = super().take(reviewer, **values)
        if item is not None:
            self._of("review.assign", item, {"to": reviewer.id})
        return item

    def give_back(self, identifier: str, **values: Any) -> Item:
        self.trail.ready()
        item = super().give_back(identifier, **values)
        self._of("review.give_back", item, {})
        return item

    def decide(self, identifier: str, decision: Decision, reviewer: Reviewer, **values: Any) -> Item:
        self.trail.ready()
        item = super().decide(identifier, decision, reviewer, **values)
        facts = {
            "verdict": decision.verdict, "corrected": decision.correction is not None, "senior": reviewer.senior,
            "outcome": item.outcome, "disputed": item.disputed,
        }  # fmt: skip
        self._of("review.decide", item, facts, {"reason": decision.reason, "correction": decision.correction})
        if item.kind == "extraction" and item.state == "decided" and item.outcome == "reject":
            self.trail.sure(
                "extraction.cleared", target=item.owner, tenant=item.tenant, facts={"of": item.id},
                content={"reason": decision.reason}, subject=item.owner,
            )  # fmt: skip
        return item

    def appeal(self, identifier: str, statement: str, **values: Any) -> Item:
        self.trail.ready()
        item = super().appeal(identifier, statement, **values)
        self._of("review.appeal", item, {}, {"statement": statement})
        return item

    def _of(
        self, kind: str, item: Item, facts: dict[str, Any], content: dict[str, Any] | None = None
    ) -> None:
        facts = {"kind": item.kind, "source": item.source, "round": item.round, **facts}
        self.trail.sure(
            kind, target=item.id, tenant=item.tenant, facts=facts, content=content, subject=item.owner
        )


def _batches(items: Sequence[Item]) -> list[str]:
    return sorted({item.batch for item in items if item.batch})
