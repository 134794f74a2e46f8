"""What a rule with `tell = false` only flags is told by no road to whoever it is about; reviewers and administrators see it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audited_house import audited_house
from sqlalchemy import update

from hanok.store.schema import review_items

POLICY = """format = 1
[rules.tripwire]
kind = "phrases"
on = ["input"]
action = "flag"
tell = {tell}
phrases = ["quiet word"]
[rules.words]
kind = "phrases"
on = ["input"]
action = "flag"
phrases = ["loud word"]
"""
SILENT = "tripwire"


class Flagged:
    """Three requests of one person: one that the silent rule flags, one that both do, one that none does."""

    def __init__(self, services: Any, http: Any, model: str) -> None:
        self.services, self.http = services, http
        make = services.people.management.create_key
        self.keys = {role: make(role, role=role)[1] for role in ("user", "reviewer", "administrator")}
        said = ("a quiet word", "a quiet word, a loud word", "hello")
        self.answers = [
            self.ask(
                "user", "POST", "/v1/chat/completions",
                json={"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2, "stream": stream},
            )
            for text in said
            for stream in (False, True)
        ]  # fmt: skip
        end = time.monotonic() + 20
        while len(self.waiting()) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        services.directory.trail.server_log.checkpoint().result(10)

    def ask(self, who: str, method: str, path: str, **options: Any) -> Any:
        self.services.directory._checked = float("-inf")  # as after half a second
        return self.http.request(
            method, path, headers={"Authorization": f"Bearer {self.keys[who]}"}, **options
        )

    def waiting(self) -> list[dict[str, Any]]:
        return self.ask("reviewer", "GET", "/v1/reviews?kind=flag").json()["data"]

    def seen(self) -> dict[str, str]:
        """All that the person who asked can read, by its road."""
        seen = {f"answer {number}": answer.text for number, answer in enumerate(self.answers)}
        for path in ("/v1/appeals", "/v1/audit/mine", "/v1/audit/mine?kind=request", "/v1/transparency"):
            answer = self.ask("user", "GET", path)
            assert answer.status_code == 200, answer.text
            seen[path] = answer.text
        return seen


@pytest.fixture
def flagged(server: Any, random_run: Path, tmp_path: Path, request: Any) -> Iterator[Flagged]:
    policy = POLICY.format(tell=getattr(request, "param", "false"))
    with audited_house(server, random_run / "model", tmp_path, policy) as (services, http):
        yield Flagged(services, http, server.model)


def test_whoever_asked_sees_nothing_of_it_and_reviewers_do(flagged: Flagged) -> None:
    for road, text in flagged.seen().items():
        assert SILENT not in text, road
        assert "quiet word" not in text, road
    assert len(flagged.ask("user", "GET", "/v1/appeals").json()["data"]) == 2  # of both rules', the loud one
    decisions = flagged.ask("user", "GET", "/v1/audit/mine?limit=1").json()
    assert (len(decisions["data"]), decisions["has_more"]) == (1, True)
    behind = flagged.ask("user", "GET", f"/v1/audit/mine?before={decisions['next']}").json()
    assert ([one["rule"] for one in behind["data"]], behind["has_more"]) == (["words"], False)
    for who in ("reviewer", "administrator"):
        assert SILENT in flagged.ask(who, "GET", "/v1/reviews").text, who
        assert SILENT in flagged.ask(who, "GET", "/v1/audit?kind=verdict").text, who
    item = next(one for one in flagged.waiting() if one["title"].startswith(SILENT))
    (finding, *_) = flagged.ask("reviewer", "GET", f"/v1/reviews/{item['id']}").json()["findings"]
    assert (finding["rule"], finding["told"]) == (SILENT, False)


@pytest.mark.parametrize("flagged", ["true"], indirect=True)
def test_the_control_a_rule_that_tells_is_seen_on_each_road(flagged: Flagged) -> None:
    seen = flagged.seen()
    for road in ("answer 0", "answer 1", "/v1/appeals", "/v1/audit/mine"):
        assert SILENT in seen[road], road
    assert len(flagged.ask("user", "GET", "/v1/appeals").json()["data"]) == 4


def test_an_appeal_is_answered_as_if_nothing_was_flagged(flagged: Flagged) -> None:
    quiet, loud, clean = (flagged.answers[number].json()["id"] for number in (0, 2, 4))

    def appeal(**named: str) -> tuple[int, Any]:
        answer = flagged.ask("user", "POST", "/v1/appeals", json={"statement": "why?", **named})
        return answer.status_code, answer.json()

    def told(name: str, identifier: str) -> str:
        code, body = appeal(**{name: identifier})
        assert code == 404
        return json.dumps(body).replace(identifier, "")

    assert told("request_id", quiet) == told("request_id", clean)
    item = next(one["id"] for one in flagged.waiting() if one["request_id"] == quiet)
    assert told("item", item) == told("item", "rv-0")
    code, made = appeal(request_id=loud)
    assert (code, made["state"]) == (201, "appealed")
    assert made["title"].startswith("words: ")
    assert SILENT not in json.dumps(made)


def test_rows_that_do_not_say_whether_they_were_told_go_by_the_policy(flagged: Flagged) -> None:
    bare = [{"rule": rule, "action": "flag", "reason": "r"} for rule in (SILENT, "words")]
    store, c = flagged.services.store, review_items.c
    for findings, titles in (([bare[0]], set()), (bare, {"words: r"})):
        with store.write() as connection:
            connection.execute(
                update(review_items).where(c.kind == "flag").values(body={"findings": findings})
            )
        shown = flagged.ask("user", "GET", "/v1/appeals").json()["data"]
        assert {one["title"] for one in shown} == titles
