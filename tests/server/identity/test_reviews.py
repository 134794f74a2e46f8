"""The review queue through HTTP: who sees what, deciding, flags of the guard, appeals; and every step in the audit."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanok.cli import _run
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.server.auditing.open import end_audit, open_audit
from hanok.server.auditing.reviews import AuditedReviews
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.store.audit.reader import Reader
from hanok.store.review.queue import Reviews

POLICY = """
format = 1
[rules.words]
kind = "phrases"
phrases = ["forbidden fruit"]
action = "block"
on = ["input"]
"""
READING = {
    "find",
    "page",
    "of_owner",
    "of_request",
    "waiting_of",
    "decisions",
    "appeals",
    "counts",
    "outcomes",
    "made_apart",
}


@pytest.fixture
def keys(house: Any) -> dict[str, str]:
    """Of two tenants."""
    house.management.create_tenant("acme")
    made = {
        name: house.make_key(name, role=role)
        for name, role in (("boss", "administrator"), ("ann", "reviewer"))
    }
    for name, role in (
        ("user", "user"),
        ("rev", "reviewer"),
        ("rev2", "reviewer"),
        ("admin", "administrator"),
    ):
        made[name] = house.make_key(name, role=role, tenant="acme")
    return made


def give(house: Any, key: str, **values: Any) -> str:
    """Id of the item that a dislike makes."""
    answer = house.chat(key).json()["id"]
    given = {"request_id": answer, "rating": -1, "correction": "better", **values}
    assert house.ask(key, method="POST", path="/v1/feedback", json=given).status_code == 201
    return Reviews(house.services.store).page(now=time.time())[-1].id


def post(house: Any, key: str, path: str, **body: Any) -> Any:
    return house.ask(key, method="POST", path=path, json=body)


def decide(house: Any, key: str, item: str, verdict: str, **values: Any) -> Any:
    return post(house, key, f"/v1/reviews/{item}/decide", verdict=verdict, reason="seen", **values)


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_every_change_of_the_queue_is_audited() -> None:
    public = {name for name, _ in inspect.getmembers(Reviews, inspect.isfunction) if not name.startswith("_")}
    assert public - READING <= set(vars(AuditedReviews))
    assert public >= READING


def test_who_may_see_and_decide(house: Any, keys: dict[str, str]) -> None:
    item = give(house, keys["user"])
    path = f"/v1/reviews/{item}"
    for who in ("user",):
        assert code(house.ask(keys[who], path="/v1/reviews")) == (403, "permission_denied")
        assert decide(house, keys[who], item, "accept").status_code == 403
    assert house.ask(keys["ann"], path="/v1/reviews").json()["data"] == []  # another tenant's
    assert house.ask(keys["ann"], path=path).status_code == 404
    assert decide(house, keys["ann"], item, "accept").status_code == 404
    assert house.ask(keys["rev"], path="/v1/reviews?tenant=default").status_code == 403
    assert [one["id"] for one in house.ask(keys["boss"], path="/v1/reviews?tenant=acme").json()["data"]] == [
        item
    ]
    shown = house.ask(keys["rev"], path=path).json()
    assert (shown["title"], shown["state"], shown["may_decide"]) == ("hi", "open", True)
    assert shown["content"]["correction"] == "better"
    assert [one["role"] for one in shown["content"]["messages"]] == ["user", "assistant"]
    assert code(decide(house, keys["rev"], item, "correct")) == (400, "correction_missing")
    done = decide(house, keys["rev"], item, "correct", correction="best").json()
    assert (done["state"], done["outcome"], done["correction"]) == ("decided", "correct", "best")
    assert done["decisions"][0]["name"] == "rev"
    assert code(decide(house, keys["rev2"], item, "reject")) == (409, "decided")
    own = give(house, keys["rev"])
    assert code(decide(house, keys["rev"], own, "accept")) == (403, "own_item")
    assert house.ask(keys["rev"], path=f"/v1/reviews/{own}").json()["may_decide"] is False
    counted = house.ask(keys["rev"], path="/v1/reviews/summary").json()
    assert (counted["open"], counted["decided"], counted["kinds"]["feedback"]["open"]) == (1, 1, 1)


def test_two_people_decide_without_seeing_each_other(make_house: Callable[..., Any]) -> None:
    house = make_house(operations=Operations(ServeSettings(reviewers=2)))
    names = {name: house.make_key(name, role="reviewer") for name in ("giver", "one", "two")}
    items = [give(house, names["giver"]) for _ in range(3)]
    taken = post(house, names["one"], "/v1/reviews/next").json()["item"]
    assert (taken["id"], taken["required"], taken["mine"]) == (items[0], 2, True)
    assert code(decide(house, names["two"], items[0], "accept")) == (409, "assigned")
    assert decide(house, names["one"], items[0], "accept").json()["state"] == "open"
    shown = house.ask(names["two"], path=f"/v1/reviews/{items[0]}").json()
    assert (shown["made"], shown["decisions"]) == (1, [])
    assert (
        post(house, names["one"], "/v1/reviews/next").json()["item"]["id"] == items[1]
    )  # not what one has decided
    assert decide(house, names["two"], items[0], "accept").json()["outcome"] == "accept"
    decide(house, names["one"], items[1], "reject")
    disputed = decide(house, names["two"], items[1], "accept").json()
    assert (disputed["state"], disputed["disputed"]) == ("open", True)
    found = house.ask(names["one"], path="/v1/reviews/agreement").json()
    assert (found["items"], found["decisions"], found["pairs"][0]["items"]) == (2, 4, 2)
    assert found["pairs"][0]["observed"] == 0.5
    assert found["alpha"]["value"] is not None


def test_a_request_that_the_guard_blocks_may_be_appealed(make_house: Callable[..., Any]) -> None:
    house = make_house(guard=Guard(parse_policy(POLICY)))
    user, other, rev = (house.make_key(name, role=role) for name, role in
                        (("user", "user"), ("other", "user"), ("rev", "reviewer")))  # fmt: skip
    asked = {"messages": [{"role": "user", "content": "what is a forbidden fruit?"}]}
    blocked = house.chat(user, json=asked)
    assert code(blocked) == (400, "content_blocked")
    seen = {"request_id": blocked.headers["x-request-id"], "statement": "it is about gardens"}

    def waiting() -> list[dict[str, Any]]:
        return house.ask(rev, path="/v1/reviews?kind=flag").json()["data"]

    end = time.monotonic() + 20
    while not waiting() and time.monotonic() < end:
        time.sleep(0.01)
    (item,) = waiting()
    assert item["title"].startswith("words")
    assert code(post(house, other, "/v1/appeals", **seen)) == (404, "not_found")
    assert post(house, user, "/v1/appeals", statement="which?").status_code == 400
    appealed = post(house, user, "/v1/appeals", **seen)
    assert appealed.status_code == 201
    assert (appealed.json()["state"], appealed.json()["may_appeal"]) == ("appealed", False)
    assert code(post(house, user, "/v1/appeals", **seen)) == (409, "appealed")
    shown = post(house, rev, "/v1/reviews/next").json()["item"]
    assert (shown["id"], shown["content"]) == (item["id"], None)  # nothing of it was kept
    assert shown["findings"][0]["rule"] == "words"
    assert shown["appeals"][0]["statement"] == seen["statement"]
    decide(house, rev, item["id"], "reject")
    (own,) = house.ask(user, path="/v1/appeals").json()["data"]
    assert (own["outcome"], own["decisions"][0]["reason"]) == ("reject", "seen")
    assert "reviewer" not in own["decisions"][0]
    assert house.ask(other, path="/v1/appeals").json()["data"] == []
    assert house.chat(user).status_code == 200  # control: nothing else is flagged
    assert len(waiting()) == 1


def test_an_appeal_against_a_rejection(house: Any, keys: dict[str, str]) -> None:
    item = give(house, keys["user"])
    early = post(house, keys["user"], "/v1/appeals", item=item, statement="no")
    assert code(early) == (409, "not_decided")
    decide(house, keys["rev"], item, "reject")
    assert house.ask(keys["user"], path="/v1/appeals").json()["data"][0]["may_appeal"] is True
    assert post(house, keys["user"], "/v1/appeals", item=item, statement="it was right").status_code == 201
    assert code(decide(house, keys["rev"], item, "accept")) == (409, "same_reviewer")
    assert decide(house, keys["rev2"], item, "accept").json()["outcome"] == "accept"


def test_assigning_to_others_is_for_administrators(house: Any, keys: dict[str, str]) -> None:
    item = give(house, keys["user"])
    people = {
        role: house.management.create_user(role, tenant="acme", role=role).id for role in ("user", "reviewer")
    }
    path = f"/v1/reviews/{item}/assign"
    assert code(post(house, keys["rev"], path, to=people["reviewer"])) == (403, "permission_denied")
    assert code(post(house, keys["admin"], path, to=people["user"])) == (403, "permission_denied")
    assert post(house, keys["admin"], path, to="u_nobody").status_code == 404
    taken = post(house, keys["admin"], path, to=people["reviewer"]).json()
    assert (taken["state"], taken["assigned_to"]) == ("assigned", people["reviewer"])
    assert code(house.ask(keys["rev"], method="DELETE", path=path)) == (409, "assigned")
    assert house.ask(keys["admin"], method="DELETE", path=path).json()["state"] == "open"


def test_people_of_other_tenants_are_assigned_nothing(house: Any, keys: dict[str, str]) -> None:
    item = give(house, keys["user"])
    house.management.create_tenant("other")
    people = {
        (tenant, role): house.management.create_user(f"{tenant} {role}", tenant=tenant, role=role).id
        for tenant in ("acme", "other", "default")
        for role in ("reviewer", "administrator")
    }
    gone = house.management.create_user("gone", tenant="acme", role="reviewer")
    house.management.change_user(gone, disabled=True)
    path = f"/v1/reviews/{item}/assign"
    for who, sees_all in (("boss", True), ("admin", False)):
        for (tenant, role), user in people.items():
            answer = post(house, keys[who], path, to=user)
            if tenant == "acme" or (sees_all and (tenant, role) == ("default", "administrator")):
                assert answer.status_code == 200, (who, tenant, role)
                house.ask(keys["boss"], method="DELETE", path=path)
            else:
                assert code(answer) == ((403, "permission_denied") if sees_all else (404, "not_found"))
        assert code(post(house, keys[who], path, to=gone.id)) == (403, "permission_denied")


def test_each_step_is_in_the_audit(house: Any) -> None:
    log = open_audit(ServeSettings(), house.path / "store.sqlite")
    house.directory.trail.log = log
    assert log is not None
    boss, rev = house.make_key("boss", role="administrator"), house.make_key("rev", role="reviewer")
    item = give(house, boss)
    post(house, rev, f"/v1/reviews/{item}/assign")
    decide(house, rev, item, "reject")
    post(house, boss, "/v1/appeals", item=item, statement="a word of mine")
    log.problem = "disk full"
    assert code(decide(house, rev, item, "accept")) == (503, "audit_unavailable")
    log.problem = None
    end_audit(house.directory.trail)
    with Reader(log.place) as reader:
        rows = [str(one.row) for piece in reader.pieces(reader.head().size) for one in piece]
    for kind in ("review.assign", "review.decide", "review.appeal"):
        (row,) = [row for row in rows if f'"kind":"{kind}"' in row]
        assert item in row
        assert "a word of mine" not in row
        assert '"sealed":null' not in row or kind == "review.assign"


def test_on_the_command_line(house: Any, keys: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    item = give(house, keys["user"])
    where = ["--store", str(house.path / "store.sqlite")]
    assert _run(["review", "list", *where]) == 0
    assert _run(["review", "decide", item, "--verdict", "correct", *where]) == 2
    assert "without a reason" in capsys.readouterr().err
    assert _run(["review", "decide", item, "--verdict", "correct", "--reason", "r", *where]) == 2
    assert "without a correction" in capsys.readouterr().err
    assert _run(["review", "decide", "--reason", "r", *where]) == 2
    assert _run(["review", "show", "rv-none", *where]) == 2
    assert "no review" in capsys.readouterr().err
    assert _run(["review", "decide", item, "--verdict", "reject", "--reason", "r", *where, "--json"]) == 0
    assert '"outcome": "reject"' in capsys.readouterr().out
    assert _run(["review", "agreement", *where]) == 0
    assert _run(["review", "export", str(house.path / "out"), *where]) == 2
    assert "nothing to learn" in capsys.readouterr().err
    assert not Path(house.path / "out").exists()
