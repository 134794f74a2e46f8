"""A NUL character, wherever it reaches the store, is refused with a word to whoever sent it; in both kinds of database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanok.server.identity.directory import Entry

NUL = "a\0b"
PASSWORD = "tea at the pavilion"


@pytest.fixture(params=["sqlite", "postgresql"])
def either(
    request: pytest.FixtureRequest, make_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setenv("HANOK_PEPPER", "p" * 32)
    place: Path | str | None = None
    if request.param == "postgresql":
        place = request.getfixturevalue("postgresql")()
    return make_house(place=place, entry=Entry(trust_loopback=True))


def test_nul_is_an_error_of_whoever_sent_it(either: Any) -> None:
    done = either.chat().json()
    message = {"id": "m", "role": "user", "content": NUL}
    talk = {"title": "t", "messages": [message], "leaf": "m"}
    preset = {"title": "t", "system": NUL}
    form = {"files": {"file": ("a.txt", b"The house has seven doors.")}}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/feedback", {"json": {"request_id": done["id"], "rating": 1, "reason": NUL}}),
        ("POST", "/v1/feedback", {"json": {"request_id": done["id"], "rating": 1, "correction": NUL}}),
        ("POST", "/v1/feedback", {"json": {"request_id": done["id"], "rating": 1, "user": NUL}}),
        ("POST", "/v1/feedback", {"json": {"request_id": NUL, "rating": 1}}),
        ("POST", "/v1/chat/completions", {"json": {"model": NUL, "messages": []}}),
        ("POST", "/v1/responses", {"json": {"model": either.model, "input": "x", "previous_response_id": NUL}}),
        ("POST", "/session", {"json": {"name": NUL, "password": PASSWORD}}),
        ("POST", "/admin/keys", {"json": {"name": NUL}}),
        ("POST", "/admin/keys", {"json": {"name": "x", "tenant": NUL}}),
        ("PATCH", "/admin/keys/a%00b", {"json": {"name": "x"}}),
        ("POST", "/admin/users", {"json": {"name": NUL, "password": PASSWORD}}),
        ("POST", "/admin/users", {"json": {"name": "x", "password": PASSWORD, "tenant": NUL}}),
        ("DELETE", "/admin/users/a%00b", {}),
        ("POST", "/admin/tenants", {"json": {"id": NUL}}),
        ("POST", "/admin/tenants", {"json": {"id": "x", "name": NUL}}),
        ("DELETE", "/admin/tenants/a%00b", {}),
        ("GET", "/admin/keys?tenant=a%00b", {}),
        ("GET", "/admin/usage?key=a%00b", {}),
        ("GET", "/v1/usage?model=a%00b", {}),
        ("GET", "/v1/files/a%00b", {}),
        ("GET", "/v1/vector_stores/a%00b", {}),
        ("POST", "/v1/vector_stores", {"json": {"file_ids": [NUL]}}),
        ("POST", "/v1/vector_stores/a%00b/search", {"json": {"query": "x"}}),
        ("POST", "/v1/files", {**form, "data": {"purpose": NUL}}),
    ]  # fmt: skip
    for method, path, options in asked:
        answer = either.ask(method=method, path=path, **options)
        assert 400 <= answer.status_code < 500, (path, options, answer.text)
        assert answer.json()["error"]["message"]
    # what is searched, shown or read from a file is kept without it, or as JSON has it
    kept: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", "/console/conversations/c", {"json": talk}),
        ("PUT", "/console/presets/p", {"json": preset}),
        ("GET", "/console/conversations?q=a%00b", {}),
        ("POST", "/v1/vector_stores", {"json": {"name": NUL}}),
        ("POST", "/v1/files", {"files": {"file": ("a\0b.txt", b"The house has seven doors.")}}),
        ("POST", "/v1/files", {"files": {"file": ("b.txt", b"The house has \0 eight doors.")}}),
    ]
    for method, path, options in kept:
        answer = either.ask(method=method, path=path, **options)
        assert answer.status_code < 500, (path, answer.text)
    assert either.ask(path="/console/conversations/c").json()["messages"][0]["content"] == NUL
    assert either.chat(json={"messages": [{"role": "user", "content": NUL}]}).status_code == 200
    assert either.ask(path="/v1/usage").status_code == 200  # and the server goes on
