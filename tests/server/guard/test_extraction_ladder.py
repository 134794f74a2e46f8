"""The ladder over HTTP: a copier climbs it step by step and is told so, others are not held back, a reviewer takes them off."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audited_house import Audited, audited_house

from hanok.store.extraction import Caller, ExtractionTable

POLICY = """format = 1
[extraction]
enabled = true
log = 3
quota = 6
no_logprobs = 9
review = 12
[tenants.free.extraction]
enabled = false
"""


class Watching(Audited):
    def key(self, **values: Any) -> tuple[str, str]:
        key, whole = self.services.people.management.create_key("bot", **values)
        return key.id, whole

    def ask(self, key: str, method: str, path: str, **body: Any) -> Any:
        self.services.directory._checked = float("-inf")  # as after half a second
        return self.http.request(method, path, headers={"Authorization": f"Bearer {key}"}, **body)

    def write(self, key: str, prompt: str, **more: Any) -> Any:
        body = {"model": self.model, "prompt": prompt, "max_tokens": 1, **more}
        return self.ask(key, "POST", "/v1/completions", json=body)

    def copy(self, key: str, requests: int, *, seed: int = 0) -> list[int]:
        """Asks for log-probabilities of prompts that are all new; the statuses."""
        draw = random.Random(seed)
        prompts = ["".join(draw.choices("abcdefghijklmnop ", k=40)) for _ in range(requests)]
        return [self.write(key, prompt, logprobs=5, temperature=0).status_code for prompt in prompts]


@pytest.fixture
def watching(server: Any, random_run: Path, tmp_path: Path) -> Iterator[Watching]:
    with audited_house(server, random_run / "model", tmp_path, POLICY) as (services, http):
        yield Watching(services, http, server.model)


def test_a_copier_climbs_and_a_reviewer_takes_it_off(watching: Watching) -> None:
    (copier, key), (_, other), (_, admin) = watching.key(), watching.key(), watching.key(role="administrator")
    statuses = watching.copy(key, 40)
    assert statuses[:5] == [200] * 5
    assert 429 in statuses  # on the way, every other request
    assert statuses[-5:] == [403] * 5  # log-probabilities are gone
    plain = [watching.write(key, f"plain text {n}").status_code for n in range(4)]
    assert sorted(set(plain)) == [200, 429]  # a share goes on
    assert watching.write(other, "hello").status_code == 200
    told = [one["facts"]["step"] for one in reversed(watching.entries("extraction.step"))]
    assert told == ["log", "quota", "no_logprobs", "review"]
    (suspect,) = watching.ask(admin, "GET", "/admin/extraction").json()["data"]
    assert (suspect["id"], suspect["step"]) == (copier, "review")
    assert suspect["windows"]["hour"]["requests"] == 44
    assert suspect["windows"]["month"]["logprobs"] == pytest.approx(40 / 44, abs=1e-3)
    path = f"/admin/extraction/{copier}/clear"
    assert watching.ask(other, "POST", path, json={"reason": "me"}).status_code == 403
    assert watching.ask(admin, "POST", path, json={"reason": "a benchmark of ours"}).status_code == 200
    assert watching.write(key, "again", logprobs=1).status_code == 200
    (cleared,) = watching.entries("extraction.cleared")
    assert cleared["target"] == copier
    assert "benchmark" not in str(cleared)  # it is sealed


def test_the_last_step_asks_for_a_person_who_clears_or_confirms(watching: Watching) -> None:
    (copier, key), (_, admin) = watching.key(), watching.key(role="administrator")
    _, reviewer = watching.key(role="reviewer")

    def queue() -> list[dict[str, Any]]:
        return watching.ask(reviewer, "GET", "/v1/reviews?kind=extraction").json()["data"]

    def decide(item: str, verdict: str) -> Any:
        body = {"verdict": verdict, "reason": "a benchmark of ours"}
        return watching.ask(reviewer, "POST", f"/v1/reviews/{item}/decide", json=body)

    assert queue() == []
    watching.copy(key, 10)
    assert queue() == []  # the control: on a lower step nobody is asked
    watching.copy(key, 40, seed=1)
    (item,) = queue()
    assert (item["owner"], item["state"]) == (copier, "open")
    watching.services.monitor.flush()
    shown = watching.ask(reviewer, "GET", f"/v1/reviews/{item['id']}").json()
    assert shown["content"] is None
    assert [one["check"] for one in shown["findings"]] == ["extraction", "now", "hour", "day", "month"]
    assert "50 requests: distinct prompts 100%" in shown["findings"][2]["reason"]
    assert decide(item["id"], "correct").status_code == 400
    assert decide(item["id"], "accept").json()["outcome"] == "accept"
    assert watching.write(key, "again", logprobs=1).status_code in (403, 429)  # confirmed: it stays there
    watching.copy(key, 20, seed=2)
    assert len(queue()) == 1  # and nobody is asked again
    own = watching.ask(key, "GET", "/v1/appeals").json()["data"]
    assert [(one["kind"], one["may_appeal"]) for one in own] == [("extraction", True)]
    assert "score" not in str(own)
    appeal = {"item": item["id"], "statement": "we measure it"}
    assert watching.ask(key, "POST", "/v1/appeals", json=appeal).status_code == 201
    other = watching.key(role="reviewer")[1]
    body = {"verdict": "reject", "reason": "a benchmark of ours"}
    cleared = watching.ask(other, "POST", f"/v1/reviews/{item['id']}/decide", json=body)
    assert cleared.json()["outcome"] == "reject"
    assert watching.write(key, "again", logprobs=1).status_code == 200  # at once
    assert len(watching.entries("extraction.cleared")) == 1
    watching.copy(key, 50, seed=3)
    assert [one["state"] for one in queue()] == ["decided", "open"]  # who begins again is looked at again
    path = f"/admin/extraction/{copier}/clear"
    done = watching.ask(admin, "POST", path, json={"reason": "by the other road"}).json()
    assert (done["cleared"], [one["state"] for one in queue()]) == (True, ["decided", "decided"])
    assert len(watching.entries("extraction.cleared")) == 2


def test_where_two_must_agree_one_clears_nobody(watching: Watching) -> None:
    operations = watching.services.operations
    operations.settings = replace(operations.settings, reviewers=2)
    copier, key = watching.key()
    watching.copy(key, 50)
    path, why = f"/admin/extraction/{copier}/clear", {"reason": "I know them"}
    for cleared in (False, True):
        admin = watching.key(role="administrator")[1]
        assert watching.ask(admin, "POST", path, json=why).json()["cleared"] is cleared
        assert (watching.write(key, f"once {cleared}", logprobs=1).status_code == 200) is cleared
    statuses = watching.ask(key, "POST", path, json=why).status_code
    assert statuses == 403


def test_a_caller_who_talks_is_not_held_back_and_a_tenant_may_be_left_out(watching: Watching) -> None:
    watching.services.people.management.create_tenant("free")
    _, talker = watching.key()
    _, free = watching.key(tenant="free")
    text = "hi"
    for _ in range(40):
        assert watching.write(talker, text).status_code == 200
        text += " and then"
    assert watching.copy(free, 40, seed=1) == [200] * 40
    watching.services.monitor.flush()
    assert [one.step for one in ExtractionTable(watching.services.store).all()] == [""]


def test_what_is_known_outlives_the_process_and_goes_with_its_tenant(watching: Watching) -> None:
    management = watching.services.people.management
    management.create_tenant("acme")
    identifier, key = watching.key(tenant="acme")
    watching.copy(key, 40)
    monitor, table = watching.services.monitor, ExtractionTable(watching.services.store)
    monitor.flush()
    monitor._watched.clear()  # as after a new start
    assert watching.write(key, "x", logprobs=1).status_code == 403
    caller = Caller(owner=identifier, tenant="acme")
    assert table.find(caller) is not None
    management.delete_tenant("acme")
    monitor.flush()
    assert table.find(caller) is None
    assert all(not counts["requests"] for counts in monitor.windows(caller).values())
