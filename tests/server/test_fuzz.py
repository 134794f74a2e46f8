"""Requests that nobody would write: none is answered by a server error, a trace, or not at all.

`HANOK_FUZZ_CASES` says how many generated cases a route has (`fuzzing.cases`; `make test-slow` sets 5,000).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from fuzzing import JSON, PATIENCE, check, fuzz, operations

from hanok.server.bodies import DEEPEST

POSTS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings",
    "/tokenize", "/detokenize", "/v1/feedback", "/v1/appeals", "/admin/adapters",
)  # fmt: skip


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


def test_no_generated_request_breaks_the_server(server: Any, http: httpx.Client) -> None:
    """Every other route; the rest in `test_fuzz_others.py`, which may run beside."""
    fuzz(server, http, operations(server.url)[::2])


@pytest.mark.slow
@pytest.mark.timeout(8 * 3600)
def test_no_generated_request_breaks_the_server_often(server: Any, http: httpx.Client) -> None:
    fuzz(server, http, operations(server.url), slow=True)


def test_the_description_has_all_routes(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()["paths"]
    assert set(POSTS) <= set(described)
    for path in POSTS:
        assert "$ref" in json.dumps(described[path]["post"]["requestBody"])


NASTY = {
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "not JSON": b'{"model": ',
    "empty": b"",
    "a number": b"1",
    "a list": b"[]",
    "null": b"null",
    "NaN": b'{"model": "random", "messages": [], "temperature": NaN}',
    "Infinity": b'{"model": "random", "prompt": "x", "temperature": -Infinity}',
    "1e999": b'{"model": "random", "prompt": "x", "messages": [], "input": "x", "dimensions": 1e999, '
    b'"temperature": 1e999, "max_tokens": 1, "tokens": [1e999]}',
    "a name twice": b'{"model": "random", "model": "other"}',
    "deep lists": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a": ' * 5000 + b"1" + b"}" * 5000,
    "just too deep": b"[" * (DEEPEST + 2) + b"]" * (DEEPEST + 2),
    "half a surrogate": b'{"model": "\\ud800"}',
    "half a surrogate as a name": b'{"\\udfff": 1, "model": "random"}',
    "a long number": b'{"model": "random", "max_tokens": ' + b"9" * 10_000 + b"}",
    "a huge number": b'{"model": "random", "n": 1e300, "prompt": "x", "input": "x", "max_tokens": 1e300, "dimensions": 1e300}',
    "NUL": b'{"model": "\\u0000", "input": "\\u0000", "prompt": "\\u0000", "tokens": [0]}',
    "UTF-16": '{"model": "random"}'.encode("utf-16"),
    "BOM": b"\xef\xbb\xbf" + b'{"model": "random"}',
}


SOME_ROUTES = ("1e999", "a huge number", "NUL")  # wrong in fields that not all of them have


@pytest.mark.parametrize("name", NASTY)
def test_nasty_bodies_are_refused_by_every_route(http: httpx.Client, name: str) -> None:
    for path in POSTS:
        response = http.post(path, content=NASTY[name], headers=JSON)
        check(response)
        if name not in SOME_ROUTES:
            assert response.status_code in (400, 404), (path, response.text)


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"model=random", 415),
        ({}, b"{}", 415),
        ({**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b", 415),
    ],
)
def test_bodies_of_other_kinds(
    http: httpx.Client, headers: dict[str, str], content: bytes, status: int
) -> None:
    for path in ("/v1/chat/completions", "/v1/messages"):
        response = http.post(path, content=content, headers=headers)
        check(response)
        assert response.status_code == status, response.text


def test_a_body_that_is_too_large_is_refused_before_it_comes(server: Any) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    connection.putrequest("POST", "/v1/chat/completions")
    for name, value in {**JSON, "Content-Length": str((16 << 20) + 1)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "body_too_large"
    connection.close()


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_other_methods_are_405_with_those_that_are_allowed(http: httpx.Client, method: str) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
        response = http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        check(response)
    assert http.request(method, "/v1/nothing").status_code == 404
    assert http.post("/v1/models").status_code == 405


def test_a_deep_schema_is_read_or_refused(http: httpx.Client, server: Any) -> None:
    """Whatever walks a body has to cope with the depth that is let in."""
    for depth in (50, 120, DEEPEST - 10):
        schema: dict[str, Any] = {"type": "integer"}
        for _ in range(depth // 2):
            schema = {"type": "array", "items": schema}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        body = {"model": server.model, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
        for extra in (
            {"tools": [tool]}, {"tools": [tool], "tool_choice": "required"},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        ):  # fmt: skip
            check(http.post("/v1/chat/completions", json={**body, **extra}))
        flat = {"type": "function", "name": "f", "parameters": schema}
        check(
            http.post(
                "/v1/responses",
                json={"model": server.model, "input": "x", "tools": [flat], "max_output_tokens": 1},
            )
        )
        block = {"name": "f", "input_schema": schema}
        check(http.post("/v1/messages", json={**body, "tools": [block]}))
