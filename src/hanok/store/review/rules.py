"""Who may decide, and when a round of decisions has come to an end. Nothing here touches a table.

Codes of `ReviewError`: assigned, decided, already_decided, own_item, same_reviewer, correction_missing, correction_unwanted,
not_decided, appealed, no_more_appeals.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hanok.errors import ReviewError
from hanok.store.review.items import NO_ANSWER, Decision, Item

MOST_APPEALS = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewer:
    """Args:
    senior: an administrator, whose word settles a dispute.
    alone: whoever owns the machine or the store; there need not be anybody else, so their own rows are theirs to decide too.
    """

    id: str
    senior: bool = False
    alone: bool = False


def check_may_decide(item: Item, decisions: Sequence[Decision], reviewer: Reviewer, *, now: float) -> None:
    """Args: decisions: of all rounds, oldest first.

    Raises:
        ReviewError: why not.
    """
    if item.state == "decided":
        raise ReviewError("decided", "this is decided already", remedy="its giver may appeal")
    holder = item.holder(now)
    if holder is not None and holder != reviewer.id:
        raise ReviewError(
            "assigned", "somebody else is at it", remedy="take another, or wait until it is given back"
        )
    if any(one.round == item.round and one.reviewer == reviewer.id for one in decisions):
        raise ReviewError(
            "already_decided", "you have decided this; another person must", remedy="leave it to another"
        )
    if reviewer.alone:
        return
    if item.owner == reviewer.id:
        raise ReviewError("own_item", "this is your own", remedy="leave it to another reviewer")
    if any(one.round < item.round and one.reviewer == reviewer.id for one in decisions):
        raise ReviewError(
            "same_reviewer", "the appeal is against your decision", remedy="leave it to another reviewer"
        )


def check_decision(item: Item, decision: Decision) -> None:
    """Raises ReviewError: a correction where there may be none, or none where there must be one."""
    if decision.verdict == "correct" and not (decision.correction or "").strip():
        raise ReviewError(
            "correction_missing", "correct without a correction", remedy="say what the answer should be"
        )
    if decision.verdict != "correct" and decision.correction is not None:
        raise ReviewError(
            "correction_unwanted", f"{decision.verdict} with a correction", remedy='use "correct"'
        )
    if decision.verdict == "correct" and item.kind in NO_ANSWER:
        raise ReviewError(
            "correction_unwanted",
            f"{item.kind}: there is no answer to correct",
            remedy='use "accept" or "reject"',
        )


def settle(made: Sequence[Decision], required: int) -> tuple[Decision | None, bool]:
    """The decision that a round comes to, if it has come to one, and whether those made so far disagree.

    Two who agree settle it; of two who do not, a third settles it with either of them, and an administrator's word after theirs
    alone.
    """
    if len(made) < required:
        return None, False
    if required == 1:
        return made[0], False
    counts = Counter(_said(one) for one in made)
    said, most = counts.most_common(1)[0]
    if most >= required:
        return next(one for one in made if _said(one) == said), False
    if len(made) > required and made[-1].senior:
        return made[-1], False
    return None, True


def check_may_appeal(item: Item, appeals: int) -> None:
    """Raises ReviewError: there is nothing to appeal against, or was an appeal."""
    if item.state == "appealed":
        raise ReviewError("appealed", "an appeal is under way", remedy="wait for the decision")
    if appeals >= MOST_APPEALS:
        raise ReviewError("no_more_appeals", "an appeal was decided already")
    if item.kind in NO_ANSWER:
        if item.state == "decided" and item.outcome == "reject":
            raise ReviewError("not_decided", "the reviewers agree with you: it was a false alarm")
        return
    if item.state != "decided" or item.outcome == "accept":
        raise ReviewError("not_decided", "this was not rejected", remedy="an appeal is against a rejection")


def _said(decision: Decision) -> tuple[str, str]:
    """What must be the same of two who agree."""
    text = unicodedata.normalize("NFC", decision.correction or "")
    return decision.verdict, " ".join(text.split())
