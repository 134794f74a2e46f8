"""Routes that are found in a table answer as they would through FastAPI's router."""

from __future__ import annotations

from typing import Any

import pytest

from hanok.server.body_route import Straight

PATHS = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 2,
        "temperature": 0,
    },
    "/v1/completions": {"prompt": "hi", "max_tokens": 2, "temperature": 0},
    "/v1/responses": {"input": "hi", "max_output_tokens": 16, "temperature": 0, "store": False},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0},
}


def table(house: Any) -> dict[Any, Any]:
    straight = house.app.router.middleware_stack
    assert isinstance(straight, Straight)
    return straight._routes


def test_which_routes_are_in_the_table(house: Any) -> None:
    assert set(PATHS) <= {path for _, path in table(house)}
    assert {method for method, _ in table(house)} == {"POST"}
    assert not any("{" in path for _, path in table(house))


@pytest.mark.parametrize("path", PATHS)
def test_the_same_answers_either_way(house: Any, path: str) -> None:
    house.make_key()  # from here on everybody shows who they are
    keys = {None: None, "user": house.make_key("u"), "viewer": house.make_key("v", role="viewer")}
    body = {"model": house.model, **PATHS[path]}
    asked: list[dict[str, Any]] = [
        {"json": body}, {"json": {**body, "model": "none"}}, {"json": {"model": 1}}, {"json": [1]}, {}, {"content": b"{"},
        {"method": "GET"}, {"path": path + "/"}, {"path": path.upper()},
    ]  # fmt: skip

    def answers() -> list[Any]:
        found = []
        for who in keys.values():
            for one in asked:
                answer = house.ask(who, **{"method": "POST", "path": path, **one})
                error = answer.json().get("error") if answer.status_code >= 400 else None
                found.append((answer.status_code, error))
        return found

    straight = answers()
    routes = table(house)
    assert ("POST", path) in routes
    routes.clear()
    assert straight == answers()
    assert {status for status, _ in straight} >= {200, 400, 401, 403, 404, 405}
