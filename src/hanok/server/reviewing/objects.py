"""Rows of the review queue as JSON, for reviewers and for those whose rows they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hanok.errors import ReviewError
from hanok.server.principal import Principal
from hanok.store.access import Access, Key, User
from hanok.store.database import Store
from hanok.store.extraction import Caller, ExtractionTable, shares_of
from hanok.store.review.items import KINDS, Appeal, Decision, Item, titled
from hanok.store.review.rules import Reviewer, check_may_appeal, check_may_decide

_SHOWN = (
    "id", "kind", "round", "created", "updated", "tenant", "owner", "source", "request_id", "model_hash", "batch", "title",
    "required", "made", "disputed", "outcome", "correction",
)  # fmt: skip
Names = Callable[[str], str]


def reviewer_of(principal: Principal) -> Reviewer:
    return Reviewer(
        id=principal.id, senior=principal.role == "administrator", alone=principal.kind == "local"
    )


def names_in(access: Access) -> Names:
    """Of people and keys by id; the id itself of who is neither, or gone. It asks the store."""
    known: dict[str, str] = {}

    def name(identifier: str) -> str:
        if identifier not in known:
            found = access.find(User, identifier) or access.find(Key, identifier)
            known[identifier] = found.name if found is not None and found.name else identifier
        return known[identifier]

    return name


def item_object(item: Item, viewer: str, *, now: float) -> dict[str, Any]:
    holder = item.holder(now)
    values = {name: getattr(item, name) for name in _SHOWN}
    return {
        "object": "review", **values, "state": item.state_at(now), "assigned_to": holder,
        "lease_ends": item.lease if holder is not None else None, "mine": holder == viewer,
    }  # fmt: skip


def detail_object(
    item: Item, reviewer: Reviewer, *, decisions: Sequence[Decision], appeals: Sequence[Appeal],
    content: Mapping[str, Any] | None, findings: Sequence[Mapping[str, Any]], name: Names, now: float,
) -> dict[str, Any]:  # fmt: skip
    """Who has yet to decide does not see what others decided in this round: two opinions are worth more than one twice."""
    mine = any(one.round == item.round and one.reviewer == reviewer.id for one in decisions)
    shown = [
        one for one in decisions if one.round < item.round or item.state == "decided" or mine or item.disputed
    ]
    why_not = _why_not(item, decisions, reviewer, now)
    return {
        **item_object(item, reviewer.id, now=now), "content": content, "findings": findings,
        "decisions": [
            {
                "reviewer": one.reviewer, "name": name(one.reviewer), "verdict": one.verdict, "correction": one.correction,
                "reason": one.reason, "created": one.created, "round": one.round,
            }
            for one in shown
        ],
        "appeals": [{**_appeal(one), "owner": item.owner} for one in appeals],
        "may_decide": why_not is None, "why_not": why_not,
    }  # fmt: skip


def content_of(store: Store, item: Item) -> dict[str, Any] | None:
    """What was said; None where nothing was kept, as of what was refused before a model read it, and of who may copy one."""
    if item.kind == "extraction":
        return None
    if item.kind == "feedback":
        given = store.find_feedback(item.source)
        return None if given is None else _said(asdict(given))
    if item.kind == "poison":
        return _said(item.body.get("row", {}))
    answered = store.find_request(item.request_id, tenant=item.tenant)
    if answered is None:
        return None
    return {"messages": [*answered.messages, *answered.answers], **dict.fromkeys(_OPINION), "user": ""}


def findings_of(store: Store, item: Item) -> list[Mapping[str, Any]]:
    """Of who may be copying a model: how it stands now too, in numbers."""
    found: list[Mapping[str, Any]] = list(item.body.get("findings", ()))
    if item.kind != "extraction":
        return found
    table, caller = ExtractionTable(store), Caller(owner=item.owner, tenant=item.tenant)
    known = table.find(caller)
    if known is not None:
        found.append({"check": "now", "reason": f"score {known.score:.0f}, step {known.step or 'none'}"})
    for window, counts in table.windows(caller, time.time()).items():
        shares = ", ".join(
            f"{name.replace('_', ' ')} {share:.0%}" for name, share in shares_of(counts).items()
        )
        found.append({"check": window, "reason": f"{counts['requests']} requests: {shares}"})
    return found


def owners_item(item: Item, tells: Callable[[str, str], bool]) -> Item | None:
    """Of a flag what whoever asked may know; None if that is nothing.

    Args:
        tells: of a rule and an action, whether they hear of it, for findings that do not say so.
    """
    if item.kind != "flag":
        return item
    told = [
        one
        for one in item.body.get("findings", ())
        if (one["told"] if "told" in one else tells(one["rule"], one["action"]))
    ]
    if not told:
        return None
    title = titled(f"{told[0]['rule']}: {told[0]['reason']}")
    return replace(item, title=title, body={**item.body, "findings": told})


def appeal_object(
    item: Item, decisions: Sequence[Decision], appeals: Sequence[Appeal], *, now: float
) -> dict[str, Any]:
    """For whose row it is: what was decided and why, not by whom."""
    over = [one for one in decisions if one.round < item.round or item.state == "decided"]
    return {
        "object": "appeal", "item": item.id, "kind": item.kind, "state": item.state_at(now), "outcome": item.outcome,
        "request_id": item.request_id, "created": item.created, "title": item.title,
        "may_appeal": _may_appeal(item, len(appeals)), "appeals": [_appeal(one) for one in appeals],
        "decisions": [
            {"verdict": one.verdict, "reason": one.reason, "created": one.created, "round": one.round} for one in over
        ],
    }  # fmt: skip


def summary_object(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Args: rows: as `Reviews.counts` gives them."""
    states = ("open", "assigned", "appealed", "decided")
    kinds = {kind: dict.fromkeys(states, 0) for kind in KINDS}
    batches: dict[str, dict[str, Any]] = {}
    disputed = 0
    for row in rows:
        state, count = "assigned" if row["held"] else row["state"], row["count"]
        kinds[row["kind"]][state] += count
        disputed += count if row["disputed"] else 0
        if row["batch"]:
            batch = batches.setdefault(
                row["batch"], {"batch": row["batch"], "created": row["created"], "open": 0, "decided": 0}
            )
            batch["decided" if state == "decided" else "open"] += count
            batch["created"] = min(batch["created"], row["created"])
    totals = {state: sum(kind[state] for kind in kinds.values()) for state in states}
    newest = sorted(batches.values(), key=lambda one: -one["created"])
    return {"object": "review.summary", **totals, "disputed": disputed, "kinds": kinds, "batches": newest}


_OPINION = ("rating", "correction", "reason")


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "messages": row.get("messages", []), **{name: row.get(name) for name in _OPINION}, "user": row.get("user") or "",
    }  # fmt: skip


def _appeal(one: Appeal) -> dict[str, Any]:
    return {"created": one.created, "statement": one.statement, "round": one.round}


def _why_not(item: Item, decisions: Sequence[Decision], reviewer: Reviewer, now: float) -> str | None:
    try:
        check_may_decide(item, decisions, reviewer, now=now)
    except ReviewError as error:
        return error.message
    return None


def _may_appeal(item: Item, appeals: int) -> bool:
    try:
        check_may_appeal(item, appeals)
    except ReviewError:
        return False
    return True
