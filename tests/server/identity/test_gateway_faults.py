"""Fault F33: what got past other gateways, each with what shows that the test can fail."""

from __future__ import annotations

import contextlib
from http.client import HTTPConnection
from typing import Any

import pytest
from serving import on_a_port

from hanok.server.identity.people import user_of_provider


@pytest.mark.parametrize(
    "key",
    [
        "hk_' OR 1=1 --_x", "hk_0123456789abcdef' UNION SELECT 1_x", "hk_%_x", "hk_0123456789abcdef_", "' OR ''='",
        "{{7*7}}", "hk_0123456789abcdef_\u00e9", "Bearer", "null", "x" * 100_000,
    ],
)  # fmt: skip
def test_f33_no_trick_is_a_key(house: Any, key: str) -> None:
    house.make_key(role="administrator")
    answer = house.ask(path="/admin/keys", headers={"x-api-key": key.encode()})
    assert answer.status_code == 401
    assert "49" not in answer.text


PATHS = (
    "//admin/keys", "/%61dmin/keys", "/admin/keys/", "/admin/./keys", "/health/../admin/keys", "/health%2f..%2fadmin/keys",
    "/admin/%2e/keys", "/ADMIN/keys", "/admin/keys;.css", "/admin/keys?x=/health", "/admin/keys%00", "/admin\\keys",
    "/v1//models", "/session/../admin/keys", "http://127.0.0.1/admin/keys", "*",
)  # fmt: skip


def test_f33_no_spelling_of_a_path_goes_around(house: Any) -> None:
    """As they stand, without a client that tidies them up."""
    key = house.make_key(role="administrator", name="SECRET-NAME")
    with on_a_port(house) as client:
        assert client.base_url.port is not None

        def answer(path: str, **headers: str) -> tuple[int, str]:
            connection = HTTPConnection("127.0.0.1", client.base_url.port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                return response.status, response.read().decode()

        assert (
            "SECRET-NAME" in answer("/admin/keys", Authorization=f"Bearer {key}")[1]
        )  # control: who may, sees it
        for path in PATHS:
            status, text = answer(path)
            assert status in (307, 400, 401, 404, 405), path
            assert "SECRET-NAME" not in text


@pytest.mark.parametrize(
    "host", ["x/#@y", "127.0.0.1:8080/admin", "127.0.0.1@evil.example", "evil.example", "127.0.0.1:99999999"]
)
def test_f33_no_host_header_goes_around(house: Any, host: str) -> None:
    key = house.make_key()
    assert house.ask(key, headers={"Host": host}).status_code == 403
    assert house.ask(key).status_code == 200


def test_f33_a_provider_says_nothing_about_another_ones_people(house: Any) -> None:
    """The same subject, and the same name, of two providers are two people."""
    people = house.people
    first, other, again = (
        user_of_provider(people, issuer=issuer, subject="1234", name="yuna@example.org", role="user")
        for issuer in ("https://a.example", "https://b.example", "https://a.example")
    )
    assert first.id == again.id
    assert first.id != other.id
    assert first.name != other.name


@pytest.mark.parametrize("name", ["{{7*7}}", "${7*7}", "<%= 7*7 %>", "{% for x in y %}"])
def test_f33_no_name_is_a_template(house: Any, name: str) -> None:
    made = house.ask(method="POST", path="/admin/keys", json={"name": name, "role": "administrator"}).json()
    assert made["name"] == name
    answer = house.chat(made["secret"], json={"messages": [{"role": "user", "content": name}]})
    assert answer.status_code == 200
    refused = house.ask(made["secret"], path=f"/admin/keys/{name.replace('%', '%25')}")
    assert "49" not in refused.text
