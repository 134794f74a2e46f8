"""What reviewers, and those whose rows they are, do with the queue: the same for the routes and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hanok.errors import NotFoundError, ReviewError
from hanok.server.errors import ApiError
from hanok.server.identity.reach import reach, within_reach
from hanok.server.identity.roles import PERMISSIONS
from hanok.server.principal import HOUSE, Principal
from hanok.server.reviewing.agreement import agreement
from hanok.server.reviewing.objects import (
    appeal_object,
    content_of,
    detail_object,
    findings_of,
    item_object,
    names_in,
    owners_item,
    reviewer_of,
    summary_object,
)
from hanok.store.access import Access, User
from hanok.store.review.items import Decision, Item, Verdict
from hanok.store.review.queue import Reviews, missing
from hanok.store.review.rules import Reviewer

LEASE_SECONDS = 1800.0
Tells = Callable[[str, str, str], bool]
_PAGE = 500


class Desk:
    """Asks the store: not for the event loop. What is out of a principal's reach is not there for it (NotFoundError).

    Args:
        tells: of a tenant, a rule and an action, whether whoever asked hears of it; of findings that do not say so themselves.
        decided: told of each item that was decided.
    """

    def __init__(
        self, reviews: Reviews, access: Access, *, tells: Tells = lambda _tenant, _rule, _action: True,
        decided: Callable[[Item], None] = lambda _item: None,
    ) -> None:  # fmt: skip
        self.reviews, self._access, self._tells, self._told_of = reviews, access, tells, decided

    # ---- looking --------------------------------------------------------------------------------------------------

    def page(
        self, principal: Principal, *, tenant: str | None = None, mine: bool = False, limit: int = 50, **wanted: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Args: wanted: states, kind, batch, after, as `Reviews.page` takes them."""
        now = time.time()
        found = self.reviews.page(
            now=now,
            tenant=reach(principal, tenant),
            reviewer=principal.id if mine else None,
            limit=limit + 1,
            **wanted,
        )
        page, more = found[:limit], len(found) > limit
        data = [item_object(item, principal.id, now=now) for item in page]
        return {"object": "list", "data": data, "has_more": more, "next": page[-1].id if more else None}

    def summary(self, principal: Principal, tenant: str | None = None) -> dict[str, Any]:
        return summary_object(self.reviews.counts(now=time.time(), tenant=reach(principal, tenant)))

    def agreement(
        self, principal: Principal, tenant: str | None = None, kind: str | None = None
    ) -> dict[str, Any]:
        decisions = self.reviews.made_apart(tenant=reach(principal, tenant), kind=kind)
        return agreement(decisions, names_in(self._access))

    def detail(self, identifier: str, principal: Principal) -> dict[str, Any]:
        return self._detail(self._find(identifier, principal), principal)

    # ---- deciding -------------------------------------------------------------------------------------------------

    def take_next(
        self, principal: Principal, *, kind: str | None = None, seconds: float = LEASE_SECONDS
    ) -> dict[str, Any]:
        """Appeals first, then by age; `item` is None where nothing is left that this principal may decide."""
        now = time.time()
        taken = self.reviews.take(
            reviewer_of(principal), until=now + seconds, now=now, tenant=reach(principal, None), kind=kind
        )
        return {"object": "review.next", "item": None if taken is None else self._detail(taken, principal)}

    def assign(
        self, identifier: str, principal: Principal, *, seconds: float = LEASE_SECONDS, to: str | None = None
    ) -> dict[str, Any]:
        """Raises ApiError 403 or 404 for `to`, ReviewError."""
        item, now = self._find(identifier, principal), time.time()
        reviewer = reviewer_of(principal) if to is None else self._other(to, item, principal)
        taken = self.reviews.assign(item.id, reviewer, until=now + seconds, now=now)
        return item_object(taken, principal.id, now=now)

    def give_back(self, identifier: str, principal: Principal) -> dict[str, Any]:
        """Raises ApiError 409 if it is somebody else's, but for administrators."""
        item, now = self._find(identifier, principal), time.time()
        if item.holder(now) not in (None, principal.id) and principal.role != "administrator":
            raise ApiError(409, "somebody else has it", code="assigned")
        return item_object(self.reviews.give_back(item.id, now=now), principal.id, now=now)

    def decide(
        self,
        identifier: str,
        principal: Principal,
        verdict: Verdict,
        reason: str,
        correction: str | None = None,
    ) -> dict[str, Any]:
        """Raises ReviewError."""
        decided = self._decide(self._find(identifier, principal), principal, verdict, reason, correction)
        return self._detail(decided, principal)

    def decide_batch(self, batch: str, principal: Principal, verdict: Verdict, reason: str) -> dict[str, Any]:
        """All that a check stopped together. `left`: what this principal may not decide, or what waits for another too."""
        decided = left = 0
        for item in self._pages(principal, batch=batch):
            if item.state == "decided":
                continue
            try:
                done = self._decide(item, principal, verdict, reason).state == "decided"
            except ReviewError:
                done = False
            decided, left = decided + done, left + (not done)
        if decided + left == 0 and not self.page(principal, batch=batch, limit=1)["data"]:
            raise NotFoundError(f'no batch "{batch[:80]}"')
        return {"object": "review.batch", "batch": batch, "decided": decided, "left": left}

    # ---- one's own ------------------------------------------------------------------------------------------------

    def own(self, principal: Principal) -> dict[str, Any]:
        items = map(self._told, self.reviews.of_owner(principal.tenant, principal.id))
        return {"object": "list", "data": [self._appeal(item) for item in items if item is not None]}

    def appeal(
        self, principal: Principal, statement: str, *, item: str | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """Raises ApiError 404, ReviewError."""
        if item is None:
            assert request_id is not None
            item = self._of_request(request_id, principal)
        elif self._told(self.reviews.find(item, tenant=principal.tenant)) is None:
            raise missing(item)
        changed = self._told(
            self.reviews.appeal(item, statement, now=time.time(), tenant=principal.tenant, owner=principal.id)
        )
        assert changed is not None
        return self._appeal(changed)

    def _of_request(self, request_id: str, principal: Principal) -> str:
        """Id of the newest item of it that its owner may know of."""
        found = self.reviews.of_request(request_id, tenant=principal.tenant, owner=principal.id)
        told = next((item for item in found if self._told(item) is not None), None)
        if told is None:
            why = f'nothing of yours was flagged or rejected in "{request_id}"'
            raise ApiError(404, why, param="request_id", code="not_found")
        return told.id

    def _told(self, item: Item) -> Item | None:
        """As whose row it is may see it: without silent flags; None if it is nothing else."""
        return owners_item(item, lambda rule, action: self._tells(item.tenant, rule, action))

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _pages(self, principal: Principal, **wanted: Any) -> Iterator[Item]:
        tenant, after = reach(principal, None), None
        while page := self.reviews.page(now=time.time(), tenant=tenant, after=after, limit=_PAGE, **wanted):
            yield from page
            after = page[-1].id

    def _decide(
        self, item: Item, principal: Principal, verdict: Verdict, reason: str, correction: str | None = None
    ) -> Item:
        reviewer = reviewer_of(principal)
        decision = Decision(reviewer=reviewer.id, verdict=verdict, reason=reason, correction=correction)
        after = self.reviews.decide(item.id, decision, reviewer, now=time.time())
        if after.state == "decided":
            self._told_of(after)
        return after

    def _find(self, identifier: str, principal: Principal) -> Item:
        return self.reviews.find(identifier, tenant=reach(principal, None))

    def _other(self, identifier: str, item: Item, principal: Principal) -> Reviewer:
        if principal.role != "administrator":
            raise ApiError(403, "administrators assign to others", param="to", code="permission_denied")
        user = self._access.find(User, identifier)
        if user is None or not within_reach(principal, user.tenant):
            raise ApiError(404, f'no user "{identifier}"', param="to", code="not_found")
        runs_house = user.role == "administrator" and user.tenant == HOUSE
        sees_it = user.tenant == item.tenant or runs_house
        if "feedback:review" not in PERMISSIONS[user.role] or not sees_it or user.disabled is not None:
            raise ApiError(403, f'"{user.name}" may not review this', param="to", code="permission_denied")
        return Reviewer(id=user.id, senior=user.role == "administrator")

    def _detail(self, item: Item, principal: Principal) -> dict[str, Any]:
        return detail_object(
            item, reviewer_of(principal), decisions=self._decisions(item), appeals=self.reviews.appeals(item.id),
            content=content_of(self.reviews.store, item), name=names_in(self._access), now=time.time(),
            findings=findings_of(self.reviews.store, item),
        )  # fmt: skip

    def _appeal(self, item: Item) -> dict[str, Any]:
        return appeal_object(item, self._decisions(item), self.reviews.appeals(item.id), now=time.time())

    def _decisions(self, item: Item) -> Sequence[Decision]:
        return self.reviews.decisions([item.id]).get(item.id, [])
