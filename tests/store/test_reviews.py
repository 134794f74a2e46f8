"""The review queue: who may decide, two people, disputes, leases, appeals, and what goes with a person or a tenant."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hanok.errors import InputError, NotFoundError, ReviewError
from hanok.store.access import Access, Tenant, User
from hanok.store.database import Feedback, Store
from hanok.store.review.items import Decision, Item
from hanok.store.review.queue import Reviews
from hanok.store.review.rules import Reviewer, settle

MESSAGES = [{"role": "user", "content": "언제?"}, {"role": "assistant", "content": "아홉 시요."}]
MINA, YUNA, BORA = (Reviewer(id=f"u_{name}") for name in ("mina", "yuna", "bora"))
BOSS = Reviewer(id="u_boss", senior=True)
LATE = 1e12


@pytest.fixture
def reviews(place: Path | str) -> Iterator[Reviews]:
    with Store(place) as store:
        Access(store).add(Tenant(id="acme"))
        for name in ("giver", "mina", "yuna", "bora", "boss"):
            Access(store).add(User(id=f"u_{name}", name=name, tenant="acme", role="reviewer"))
        yield Reviews(store)


def give(reviews: Reviews, *, required: int = 1, owner: str = "u_giver", **values: Any) -> str:
    """Id of the row that a judgement makes."""
    given = Feedback(
        request_id="r", model_hash="ab", messages=MESSAGES, rating=-1, tenant="acme", owner=owner, **values
    )
    source = reviews.store.add_feedback(given, reviewers=required)
    return reviews.outcomes("feedback", [source])[source].id


def decide(
    reviews: Reviews, item: str, who: Reviewer, verdict: Any, *, now: float = 100.0, **values: Any
) -> Item:
    decision = Decision(reviewer=who.id, verdict=verdict, reason="because", **values)
    return reviews.decide(item, decision, who, now=now)


def refused(code: str) -> Any:
    return pytest.raises(ReviewError, check=lambda error: error.code == code)


def test_feedback_waits_and_one_person_decides(reviews: Reviews) -> None:
    item = give(reviews)
    (waiting,) = reviews.page(now=1.0, tenant="acme")
    assert (waiting.id, waiting.title, waiting.state, waiting.kind) == (item, "언제?", "open", "feedback")
    done = decide(reviews, item, MINA, "correct", correction="열 시요.")
    assert (done.state, done.outcome, done.correction, done.made) == ("decided", "correct", "열 시요.", 1)
    with refused("decided"):
        decide(reviews, item, YUNA, "reject")
    assert reviews.page(now=1.0, tenant="default") == []
    with pytest.raises(NotFoundError):
        reviews.find(item, tenant="default")


def test_corrections_belong_to_correct(reviews: Reviews) -> None:
    item = give(reviews)
    with refused("correction_missing"):
        decide(reviews, item, MINA, "correct", correction="  ")
    with refused("correction_unwanted"):
        decide(reviews, item, MINA, "accept", correction="x")
    assert reviews.find(item).made == 0


def test_nobody_decides_their_own_but_who_is_alone(reviews: Reviews) -> None:
    item = give(reviews, owner=MINA.id)
    with refused("own_item"):
        decide(reviews, item, MINA, "accept")
    alone = give(reviews, owner="local")
    assert decide(reviews, alone, Reviewer(id="local", alone=True), "accept").state == "decided"


def test_two_people_must_agree(reviews: Reviews) -> None:
    item = give(reviews, required=2)
    assert decide(reviews, item, MINA, "accept").state == "open"
    with refused("already_decided"):
        decide(reviews, item, MINA, "accept")
    done = decide(reviews, item, YUNA, "accept")
    assert (done.state, done.outcome, done.disputed, done.made) == ("decided", "accept", False, 2)


@pytest.mark.parametrize(
    ("third", "verdict", "state"),
    [(BORA, "reject", "decided"), (BORA, "correct", "open"), (BOSS, "correct", "decided")],
)
def test_who_disagree_need_a_third_or_an_administrator(
    reviews: Reviews, third: Reviewer, verdict: Any, state: str
) -> None:
    item = give(reviews, required=2)
    decide(reviews, item, MINA, "accept")
    disputed = decide(reviews, item, YUNA, "reject")
    assert (disputed.state, disputed.disputed) == ("open", True)
    values: dict[str, Any] = {"correction": "열 시요."} if verdict == "correct" else {}
    done = decide(reviews, item, third, verdict, **values)
    assert (done.state, done.disputed) == (state, state == "open")
    assert done.outcome == (verdict if state == "decided" else None)


def test_the_same_verdict_with_other_corrections_is_no_agreement() -> None:
    def said(correction: str) -> Decision:
        return Decision(reviewer=correction, verdict="correct", reason="r", correction=correction)

    assert settle([said("at  nine"), said("at nine")], 2)[0] is not None
    assert settle([said("at ten"), said("at nine")], 2) == (None, True)
    assert settle([said("at ten")], 2) == (None, False)


def test_an_administrator_among_the_first_two_settles_nothing_alone(reviews: Reviews) -> None:
    item = give(reviews, required=2)
    decide(reviews, item, BOSS, "accept")
    assert decide(reviews, item, MINA, "reject").state == "open"


def test_a_lease_keeps_others_away_until_it_ends(reviews: Reviews) -> None:
    item = give(reviews)
    taken = reviews.assign(item, MINA, until=200.0, now=100.0)
    assert (taken.state_at(150.0), taken.holder(150.0)) == ("assigned", MINA.id)
    assert [one.id for one in reviews.page(now=150.0, states=["assigned"])] == [item]
    assert reviews.page(now=150.0, states=["open"]) == []
    with refused("assigned"):
        reviews.assign(item, YUNA, until=300.0, now=150.0)
    with refused("assigned"):
        decide(reviews, item, YUNA, "accept", now=150.0)
    assert [one.id for one in reviews.page(now=201.0, states=["open"])] == [item]
    assert decide(reviews, item, YUNA, "accept", now=201.0).state == "decided"
    other = give(reviews)
    reviews.assign(other, MINA, until=LATE, now=100.0)
    reviews.give_back(other, now=101.0)
    assert reviews.assign(other, YUNA, until=LATE, now=102.0).reviewer == YUNA.id


def test_one_of_many_gets_it(reviews: Reviews) -> None:
    item = give(reviews)

    def take(number: int) -> bool:
        try:
            reviews.assign(item, Reviewer(id=f"r{number}"), until=LATE, now=100.0)
        except ReviewError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1


def test_of_two_who_take_at_once_each_gets_another(reviews: Reviews) -> None:
    items = {give(reviews, created=float(number)) for number in range(1, 9)}

    def take_all(number: int) -> list[str]:
        taken = iter(lambda: reviews.take(Reviewer(id=f"r{number}"), until=LATE, now=100.0), None)
        return [item.id for item in taken]

    with ThreadPoolExecutor(4) as pool:
        taken = [item for one in pool.map(take_all, range(4)) for item in one]
    assert sorted(taken) == sorted(items)  # each once
    assert reviews.take(MINA, until=LATE, now=100.0) is None


def test_the_next_is_the_oldest_that_one_may_decide_appeals_first(reviews: Reviews) -> None:
    def following(who: Reviewer, **values: Any) -> str | None:
        item = reviews.take(who, until=LATE, now=100.0, **values)
        return None if item is None else reviews.give_back(item.id, now=100.0).id

    own, other, appealed, split = (
        give(reviews, created=float(number), owner=owner, required=required)
        for number, owner, required in (
            (1, MINA.id, 1),
            (2, "u_giver", 1),
            (3, "u_giver", 1),
            (4, "u_giver", 2),
        )
    )
    assert following(BORA) == own
    assert following(MINA) == other  # not her own
    assert following(Reviewer(id=MINA.id, alone=True)) == own
    decide(reviews, split, MINA, "accept")
    decide(reviews, appealed, MINA, "reject")
    reviews.appeal(appealed, "no", now=1.0, tenant="acme", owner="u_giver")
    assert following(BORA) == appealed
    assert following(MINA) == other  # the appeal is against her decision
    decide(reviews, other, YUNA, "accept")
    assert following(MINA) is None  # of two people she has been the one
    assert following(BORA, kind="flag") is None
    assert following(BORA, tenant="default") is None
    taken = reviews.take(BORA, until=200.0, now=100.0)
    assert taken is not None
    assert (taken.id, taken.holder(150.0)) == (appealed, BORA.id)
    again = reviews.take(YUNA, until=300.0, now=201.0)
    assert again is not None
    assert again.id == appealed  # the lease has ended


def test_an_appeal_goes_to_somebody_else(reviews: Reviews) -> None:
    item = give(reviews)
    appeal: Any = {"now": 200.0, "tenant": "acme", "owner": "u_giver"}
    with refused("not_decided"):
        reviews.appeal(item, "it is right", **appeal)
    decide(reviews, item, MINA, "reject")
    with pytest.raises(NotFoundError):
        reviews.appeal(item, "not mine", now=200.0, tenant="acme", owner="u_yuna")
    appealed = reviews.appeal(item, "it is right", **appeal)
    assert (appealed.state, appealed.round, appealed.outcome) == ("appealed", 1, None)
    with refused("appealed"):
        reviews.appeal(item, "once more", **appeal)
    with refused("same_reviewer"):
        decide(reviews, item, MINA, "accept")
    assert decide(reviews, item, YUNA, "reject").outcome == "reject"
    with refused("no_more_appeals"):
        reviews.appeal(item, "and again", **appeal)
    assert [one.round for one in reviews.decisions([item])[item]] == [0, 1]
    assert [one.statement for one in reviews.appeals(item)] == ["it is right"]


def test_who_was_blocked_may_appeal_before_anybody_looked(reviews: Reviews) -> None:
    flag = Item(
        kind="flag",
        source="chatcmpl-1",
        tenant="acme",
        owner="u_giver",
        request_id="chatcmpl-1",
        http_id="x1",
    )
    (item,) = reviews.add([flag])
    assert reviews.add([flag]) == []  # once
    found = reviews.of_request("x1", tenant="acme", owner="u_giver")
    assert [one.id for one in found] == [item]
    assert reviews.of_request("x1", tenant="acme", owner="u_mina") == []
    appealed = reviews.appeal(item, "a recipe", now=1.0, tenant="acme", owner="u_giver")
    assert (appealed.state, appealed.round) == ("appealed", 0)
    assert decide(reviews, item, MINA, "reject").outcome == "reject"
    with refused("correction_unwanted"):
        (other,) = reviews.add([Item(kind="flag", source="chatcmpl-2", tenant="acme")])
        decide(reviews, other, MINA, "correct", correction="x")


def test_pages_and_counts(reviews: Reviews) -> None:
    items = [give(reviews, created=float(number)) for number in range(1, 6)]
    first = reviews.page(now=1.0, tenant="acme", limit=2)
    second = reviews.page(now=1.0, tenant="acme", limit=9, after=first[-1].id)
    assert [one.id for one in (*first, *second)] == items
    decide(reviews, items[0], MINA, "accept")
    reviews.assign(items[1], MINA, until=LATE, now=100.0)
    counts = {
        (row["state"], bool(row["held"])): row["count"] for row in reviews.counts(now=100.0, tenant="acme")
    }
    assert counts == {("decided", False): 1, ("open", True): 1, ("open", False): 3}


def test_decisions_made_apart_are_compared(reviews: Reviews) -> None:
    both, one, half = give(reviews, required=2), give(reviews), give(reviews, required=2)
    decide(reviews, both, MINA, "accept", now=1.0)
    decide(reviews, both, YUNA, "reject", now=2.0)
    decide(reviews, one, MINA, "accept")
    decide(reviews, half, MINA, "accept")
    apart = [(both, MINA.id, "accept"), (both, YUNA.id, "reject")]
    assert made_apart(reviews) == apart
    assert reviews.made_apart(tenant="default") == []
    decide(reviews, both, BORA, "reject", now=3.0)  # asked because the two differ
    assert made_apart(reviews) == apart
    reviews.appeal(both, "no", now=4.0, tenant="acme", owner="u_giver")
    for who in (BOSS, Reviewer(id="u_late")):  # who have seen what was decided before
        decide(reviews, both, who, "accept", now=5.0)
    assert reviews.find(both).round == 1
    assert made_apart(reviews) == apart


def made_apart(reviews: Reviews) -> list[tuple[str, str, str]]:
    return [(one.item, one.reviewer, one.verdict) for one in reviews.made_apart(tenant="acme")]


def test_a_person_and_a_tenant_take_their_rows_along(reviews: Reviews) -> None:
    access, item = Access(reviews.store), give(reviews)
    kept = give(reviews, owner="u_mina")
    decide(reviews, item, MINA, "reject")
    reviews.appeal(item, "no", now=1.0, tenant="acme", owner="u_giver")
    removed = access.delete_user("u_giver")
    assert (removed["review_items"], removed["feedback"]) == (1, 1)
    assert reviews.decisions([item]) == {}
    assert reviews.appeals(item) == []
    assert [one.id for one in reviews.page(now=1.0)] == [kept]
    with pytest.raises(InputError, match="gone"):
        give(reviews)
    with pytest.raises(InputError, match="gone"):
        reviews.add([Item(kind="flag", source="late", tenant="acme", owner="u_giver")])
    assert access.delete_tenant("acme", now=1.0)["review_items"] == 1
    assert reviews.page(now=1.0) == []
