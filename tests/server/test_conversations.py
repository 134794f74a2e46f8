"""Saved conversations: each person's own, whole or not at all, found again by words and by pages."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanok.store.access import Access
from hanok.store.conversations import (
    Owner,
    Shelf,
    VersionConflictError,
    conversations,
    presets,
)
from hanok.store.database import Store

ME = Owner("default", "me")


def talk(*texts: str, **fields: Any) -> dict[str, Any]:
    """Questions and answers in turn."""
    roles = ("user", "assistant")
    messages = [
        {"id": f"m{place}", "parent": f"m{place - 1}" if place else None, "role": roles[place % 2], "content": text}
        for place, text in enumerate(texts)
    ]  # fmt: skip
    leaf = messages[-1]["id"] if messages else None
    return {"title": texts[0] if texts else "empty", "messages": messages, "leaf": leaf, **fields}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Store(tmp_path / "s.sqlite") as store:
        yield Shelf(store.engine, conversations)


def put(
    shelf: Shelf,
    identifier: str,
    owner: Owner = ME,
    version: int | None = None,
    title: str = "t",
    text: str = "",
) -> int:
    return shelf.put(
        owner, identifier, title=title, body={"text": text}, words=[text], version=version
    ).version


def test_a_writer_who_saw_an_older_version_is_refused(shelf: Shelf) -> None:
    assert put(shelf, "a", version=0) == 1
    assert put(shelf, "a", version=1, text="two") == 2
    with pytest.raises(VersionConflictError) as refused:
        put(shelf, "a", version=1, text="late")
    assert refused.value.version == 2
    found = shelf.find(ME, "a")
    assert found is not None
    assert found.body == {"text": "two"}
    assert put(shelf, "a", version=None, text="last wins") == 3
    with pytest.raises(VersionConflictError):
        put(shelf, "a", version=0)
    shelf.delete(ME, "a")
    with pytest.raises(VersionConflictError):  # deleted meanwhile: not brought back unasked
        put(shelf, "a", version=3)


def test_nobody_sees_or_changes_what_is_anothers(shelf: Shelf) -> None:
    others = [Owner("default", "you"), Owner("elsewhere", "me")]
    put(shelf, "a", text="mine")
    for other in others:
        assert shelf.find(other, "a") is None
        assert shelf.page(other) == []
        assert not shelf.delete(other, "a")
        put(shelf, "a", other, version=0, text="theirs")
    found = shelf.find(ME, "a")
    assert found is not None
    assert found.body == {"text": "mine"}


def test_a_tenant_that_goes_takes_its_conversations_with_it(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        shelf, other = Shelf(store.engine, conversations), Shelf(store.engine, presets)
        put(shelf, "a", Owner("acme", "me"))
        put(shelf, "a")
        put(other, "p", Owner("acme", "me"))
        removed = Access(store).delete_tenant("acme", now=1.0)
        assert (removed["conversations"], removed["presets"]) == (1, 1)
        assert shelf.find(Owner("acme", "me"), "a") is None
        assert shelf.find(ME, "a") is not None


def test_pages_meet_without_gap_or_double(shelf: Shelf) -> None:
    for number in range(7):
        put(shelf, f"c{number}")
    put(shelf, "c2")  # newest now
    seen, after = [], None
    while rows := shelf.page(ME, limit=3, after=after):
        seen += [row.id for row in rows]
        after = (rows[-1].updated, rows[-1].id)
    assert seen == ["c2", "c6", "c5", "c4", "c3", "c1", "c0"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("찻집", ["a"]), (unicodedata.normalize("NFD", "찻집"), ["a"]), ("찻집 열", ["a"]), ("찻집 서점", []), ("BOOK", ["b"]),
        ("100%", ["b"]), ("_", []), ("", ["b", "a"]),
    ],
)  # fmt: skip
def test_search_finds_every_word(shelf: Shelf, words: str, found: list[str]) -> None:
    put(shelf, "a", title="솔빛 찻집", text="몇 시에 열어요?\0")
    put(shelf, "b", title="Books", text="100% off")
    assert [row.id for row in shelf.page(ME, words=words)] == found


def test_the_life_of_a_conversation(taught: Any) -> None:
    http, path = taught.http, "/console/conversations/life-1"
    first = talk("언제 열어요?", "9시요.", "정말?", "네.", system="짧게.")
    first["messages"].append({"id": "b", "parent": "m1", "role": "user", "content": "왜?"})
    made = http.put(path, json={**first, "version": 0}).json()
    assert (made["version"], made["title"], made["object"]) == (1, "언제 열어요?", "conversation")
    again = http.put(path, json={**first, "version": 0})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "version_conflict")
    assert http.put(path, json={**first, "title": "새 이름", "version": 1}).json()["version"] == 2

    whole = http.get(path).json()
    assert [one["id"] for one in whole["messages"]] == ["m0", "m1", "m2", "m3", "b"]
    assert (whole["title"], whole["system"], whole["leaf"]) == ("새 이름", "짧게.", "m3")
    line = json.loads(http.get("/console/conversations/export?id=life-1").text)
    assert [one["role"] for one in line["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    response = http.get("/console/conversations/export?id=life-1&format=markdown")
    assert response.headers["Content-Disposition"] == 'attachment; filename="life-1.md"'
    assert "# 새 이름" in response.text
    assert "왜?" not in response.text  # a branch that is not shown
    assert "life-1" in {row["id"] for row in http.get("/console/conversations?q=정말").json()["data"]}
    assert http.delete(path).json() == {"id": "life-1", "object": "conversation", "deleted": True}
    assert http.get(path).status_code == http.delete(path).status_code == 404


def test_lists_of_the_api_go_page_by_page(taught: Any) -> None:
    for number in range(3):
        body = {"title": f"paged {number}", "system": "Be brief.", "mode": "own", "temperature": 0.5}
        assert taught.http.put(f"/console/presets/p{number}", json=body).status_code == 200
    first = taught.http.get("/console/presets?limit=2&q=paged").json()
    assert ([row["id"] for row in first["data"]], first["has_more"]) == (["p2", "p1"], True)
    rest = taught.http.get(
        "/console/presets", params={"limit": 2, "q": "paged", "after": first["next"]}
    ).json()
    assert ([row["id"] for row in rest["data"]], rest["has_more"], rest["next"]) == (["p0"], False, None)
    assert taught.http.get("/console/presets/p0").json()["temperature"] == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"title": ""}, {"title": "a\nb"}, {"leaf": "nobody"}, {"version": -1}, {"messages": [{"id": "a", "role": "god"}]},
        {"messages": [{"id": "a", "parent": "a", "role": "user"}]}, {"messages": [{"id": "a", "role": "user"}] * 2},
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(taught: Any, change: dict[str, Any]) -> None:
    response = taught.http.put("/console/conversations/wrong", json={**talk("hi"), **change})
    assert response.status_code == 400
    assert taught.http.get("/console/conversations/wrong").status_code == 404


def test_no_cursor_name_or_format_breaks_the_server(taught: Any) -> None:
    for path in (
        "?after=x",
        "?after=MSAyIDM=",
        "?limit=0",
        "/a b",
        "/%00",
        "/export?format=exe",
        "/" + "x" * 65,
    ):
        assert taught.http.get(f"/console/conversations{path}").status_code in (400, 404), path


def test_the_console_says_what_is_here(taught: Any) -> None:
    found = taught.http.get("/console.json").json()
    assert found["me"] == {"id": "local", "name": "local", "tenant": "default", "role": "administrator"}
    assert {"conversations", "presets", "feedback"} <= set(found["features"])
