"""The ladder over HTTP: a copier climbs it step by step and is told so, others are not held back, a reviewer takes them off."""

from __future__ import annotations

import random
from collections.abc import Iterator
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
