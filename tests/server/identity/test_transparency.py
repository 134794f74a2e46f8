"""What users are told: a notice before anything else, a label on answers, a mark on what they carry away, cards, decisions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audited_house import Audited, audited_house

from hanok.artefacts import create_artefact, write_json
from hanok.server.protection.transparency import HEADER, card_of

POLICY = """format = 1
[rules.words]
kind = "phrases"
on = ["input"]
action = "block"
phrases = ["open sesame"]
[logprobs]
most = 1
[transparency]
notice_ko = "우리 도서관의 안내는 인공지능이 합니다."
contact = "ai@example.org"
"""


class Open(Audited):
    def key(self, **values: Any) -> str:
        return self.services.people.management.create_key("bot", **values)[1]

    def ask(self, method: str, path: str, key: str | None = None, **body: Any) -> Any:
        self.services.directory._checked = float("-inf")  # as after half a second
        return self.http.request(
            method, path, headers={"Authorization": f"Bearer {key}"} if key else {}, **body
        )

    def chat(self, key: str | None, text: str, **more: Any) -> Any:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 3, **more}
        return self.ask("POST", "/v1/chat/completions", key, json=body)


@pytest.fixture
def open_house(server: Any, random_run: Path, tmp_path: Path) -> Iterator[Open]:
    with audited_house(server, random_run / "model", tmp_path, POLICY) as (services, http):
        yield Open(services, http, server.model)


def test_the_notice_needs_no_key_and_may_have_words_of_ones_own(open_house: Open) -> None:
    key = open_house.key()
    told = open_house.ask("GET", "/v1/transparency")
    assert told.status_code == 200
    assert open_house.ask("GET", "/v1/models").status_code == 401  # what is not public asks for one
    assert told.json()["generative_ai"] is True
    assert told.json()["notice"]["ko"] == "우리 도서관의 안내는 인공지능이 합니다."
    assert "generative" in told.json()["notice"]["en"]
    assert told.json()["contact"] == "ai@example.org"
    assert told.json()["watermark"] is False
    assert open_house.ask("GET", "/v1/models", key).headers.get(HEADER) is None


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_is_labelled_on_every_route(open_house: Open, stream: bool) -> None:
    key = open_house.key()
    ask = {"model": open_house.model, "stream": stream}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
        "/v1/completions": {"prompt": "hi", "max_tokens": 2},
        "/v1/responses": {"input": "hi", "max_output_tokens": 2},
        "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    }
    for path, body in bodies.items():
        answer = open_house.ask("POST", path, key, json={**ask, **body})
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == open_house.model, path
    assert open_house.chat(key, "hi", logprobs=True, top_logprobs=2).status_code == 400
    assert [one["facts"] for one in open_house.entries("logprobs.refused")] == [{"asked": 2, "most": 1}]
    refused = open_house.chat(key, "hi", max_tokens=-1)
    assert refused.status_code == 400
    assert HEADER not in refused.headers  # nobody wrote it
    work = [one["facts"]["work"][0] for one in open_house.entries("request") if "work" in one["facts"]]
    assert len(work) == 4
    assert all(one["labelled"] for one in work)


def test_a_person_sees_what_was_decided_about_them_alone(open_house: Open) -> None:
    mine, other = open_house.key(scopes=("chat",)), open_house.key()
    assert open_house.chat(mine, "please open sesame now").status_code == 400
    assert open_house.chat(other, "hello").status_code == 200
    open_house.entries("verdict")
    (decision,) = open_house.ask("GET", "/v1/audit/mine", mine).json()["data"]
    assert (decision["rule"], decision["action"], decision["direction"]) == ("words", "block", "input")
    assert decision["where"] == "messages.0"
    assert open_house.ask("GET", "/v1/audit/mine", other).json()["data"] == []
    asked = open_house.ask("GET", "/v1/audit/mine?kind=request", other).json()["data"]
    assert [one["status"] for one in asked if one["route"] == "/v1/chat/completions"] == [200]
    assert open_house.ask("GET", "/v1/audit", mine).status_code == 403  # everybody's is for reviewers
    assert open_house.ask("GET", "/v1/audit/mine?kind=session.begin", mine).status_code in (400, 422)


def test_exports_carry_a_line_for_people_and_a_mark_for_programs(open_house: Open) -> None:
    key = open_house.key()
    talk = {
        "title": "t", "leaf": "b",
        "messages": [
            {"id": "a", "role": "user", "content": "hi"},
            {"id": "b", "parent": "a", "role": "assistant", "content": "hello", "model": "m --> <b>"},
        ],
    }  # fmt: skip
    bare = {"title": "u", "leaf": "a", "messages": [{"id": "a", "role": "user", "content": "hi"}]}
    for name, body in (("talk", talk), ("bare", bare)):
        assert open_house.ask("PUT", f"/console/conversations/{name}", key, json=body).status_code == 200
    line = json.loads(open_house.ask("GET", "/console/conversations/export?id=talk", key).text)
    assert line["ai_generated"] is True
    assert line["models"] == ["m --> <b>"]
    text = open_house.ask("GET", "/console/conversations/export?id=talk&format=markdown", key).text
    assert "AI 생성" in text
    assert "AI-generated" in text
    comment = text.split("<!-- ")[1].split(" -->")[0]
    assert json.loads(comment)["models"] == ["m --> <b>"]  # whatever a model is called
    unmarked = json.loads(open_house.ask("GET", "/console/conversations/export?id=bare", key).text)
    assert "ai_generated" not in unmarked
    assert (
        "AI" not in open_house.ask("GET", "/console/conversations/export?id=bare&format=markdown", key).text
    )
    assert len(open_house.entries("conversation.exported")) == 4


def test_the_card_and_the_lineage_are_open(open_house: Open) -> None:
    key = open_house.key(role="viewer")
    path = f"/v1/transparency/models/{open_house.model}"
    told = open_house.ask("GET", path, key).json()
    assert told["answers_as"] == open_house.services.models.default.hash
    assert told["kind"] == "model"
    assert open_house.ask("GET", "/v1/transparency/models/none", key).status_code == 404
    assert open_house.ask("GET", path).status_code == 401


def test_a_card_names_all_parents_and_no_places(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folders: list[Path] = []
    for name in ("corpus", "train", "model"):
        parents: dict[str, Any] = {folders[-1].name: folders[-1]} if folders else {}
        with create_artefact(run / name, kind=name, parents=parents, step={"path": str(tmp_path)}) as draft:
            write_json(draft.path / "content.json", {"of": name})
        folders.append(run / name)
    (run / "model" / "README.md").write_text("# A card", encoding="utf-8")
    found = card_of(run / "model", run)
    assert found["card"] == "# A card"
    assert [(one["role"], one["kind"]) for one in found["lineage"]] == [
        ("train", "train"),
        ("corpus", "corpus"),
    ]
    assert str(tmp_path) not in json.dumps(found)
    elsewhere = card_of(run / "model", None)
    assert [set(one) for one in elsewhere["lineage"]] == [{"role", "hash"}]
