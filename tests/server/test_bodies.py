"""The one middleware that looks at bodies: their size, their kind, and JSON without traps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from hanok.server import bodies
from hanok.server.anthropic import Block
from hanok.server.bodies import Bodies
from hanok.server.response_schema import Item

LIMIT = 100


class Asked:
    """What a client sends, what the application got, and what was answered."""

    def __init__(self, parts: Sequence[bytes], *, method: str = "POST", **headers: str) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope = {"type": "http", "method": method, "path": "/", "headers": named}
        self.parts, self.got, self.sent = list(parts), list[bytes](), list[dict[str, Any]]()
        self.called = False
        asyncio.run(Bodies(self.app, limit=lambda _path: LIMIT)(self.scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        if not self.parts:
            return {"type": "http.disconnect"}
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def app(self, _scope: Any, receive: Any, send: Any) -> None:
        self.called = True
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RuntimeError("the client went away")
            self.got.append(message["body"])
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def code(self) -> str:
        return json.loads(self.sent[1]["body"])["error"]["code"]


def test_json_comes_whole_and_once() -> None:
    asked = Asked([b'{"a"', b": 1}"], content_type="application/json")
    assert (asked.status, asked.got) == (200, [b'{"a": 1}'])


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_one_that_says_it_is_too_large_is_not_passed_on(kind: str) -> None:
    asked = Asked([b"x" * 50] * 3, content_type=kind, content_length="150")
    assert (asked.status, asked.code, asked.called, asked.parts) == (413, "body_too_large", False, [])


def test_one_that_waits_to_be_told_to_come_does_not_come() -> None:
    asked = Asked(
        [b"x" * 50] * 3, content_type="application/json", content_length="150", expect="100-continue"
    )
    assert (asked.status, asked.code, len(asked.parts)) == (413, "body_too_large", 3)


def test_json_that_turns_out_too_large_is_dropped() -> None:
    asked = Asked([b" " * 60] * 5, content_type="application/json")
    assert (asked.status, asked.code, asked.called, asked.parts) == (413, "body_too_large", False, [])
    assert (b"connection", b"close") in asked.sent[0]["headers"]


def test_what_is_dropped_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LINGER_BYTES", 120)
    asked = Asked([b" " * 60] * 9, content_type="application/json")
    assert (asked.status, len(asked.parts)) == (413, 5)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_files_that_turn_out_too_large_are_cut_and_answered_once(method: str) -> None:
    kind = {"content_type": "multipart/form-data; boundary=x"} if method == "POST" else {}
    asked = Asked([b"x" * 60] * 5, method=method, **kind)
    assert (asked.status, asked.code, asked.got) == (413, "body_too_large", [b"x" * 60])
    assert len(asked.sent) == 2


def test_files_within_the_limit_come_as_they_are() -> None:
    asked = Asked([b"\xff" * 40] * 2, content_type="multipart/form-data; boundary=x")
    assert (asked.status, asked.got) == (200, [b"\xff" * 40] * 2)


def test_what_is_no_json_never_arrives() -> None:
    assert Asked([b"{}"], content_type="text/plain").code == "unsupported_content_type"
    assert (
        Asked([b"{}"], content_type="application/json", content_encoding="gzip").code
        == "unsupported_encoding"
    )
    asked = Asked([b'{"a": NaN}'], content_type="application/json")
    assert (asked.status, asked.code, asked.called) == (400, "invalid_json", False)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Block, "unsupported_block"), (Item, "unsupported_item")],
    ids=["anthropic", "responses"],
)
@pytest.mark.parametrize("given", ["picture", ["text"], {"a": 1}, None])
def test_a_type_that_is_none_is_refused_whatever_it_is(kind: Any, error: str, given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python({"type": given})
    kinds = {one["type"] for one in caught.value.errors()}
    assert error in kinds or (
        given != "picture" and error == "unsupported_item"
    )  # an item without a type is a message
