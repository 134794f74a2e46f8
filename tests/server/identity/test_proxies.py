"""Behind reverse proxies: whose word is taken for where a request comes from, and whose is not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from hanok.cli.serve import FLAGS
from hanok.errors import ConfigError
from hanok.server import app as app_module
from hanok.server.identity.directory import Entry
from hanok.server.identity.proxies import look_through, parse_networks
from hanok.server.operations.config import ServeSettings, resolve_settings
from hanok.server.operations.service import Operations

TRUSTED = ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")
PASSWORD = "tea at the pavilion"


def seen(peer: str, *headers: tuple[str, str], trusted: tuple[str, ...] = TRUSTED) -> tuple[str | None, str]:
    scope: dict[str, Any] = {
        "type": "http", "client": (peer, 1234), "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }  # fmt: skip
    look_through(scope, parse_networks(trusted))
    return scope["client"] and scope["client"][0], scope["scheme"]


FOR, PROTO = "x-forwarded-for", "x-forwarded-proto"
CASES: list[tuple[str, list[tuple[str, str]], str | None, str]] = [
    ("203.0.113.5", [(FOR, "198.51.100.1"), (PROTO, "https")], "203.0.113.5", "http"),  # anybody
    ("10.1.2.3", [], "10.1.2.3", "http"),
    ("10.1.2.3", [(FOR, "198.51.100.1")], "198.51.100.1", "http"),
    ("10.1.2.3", [(FOR, "1.1.1.1, 198.51.100.1")], "198.51.100.1", "http"),  # what the client wrote itself
    ("10.1.2.3", [(FOR, "1.1.1.1, 198.51.100.1, 192.0.2.7")], "198.51.100.1", "http"),  # two proxies
    ("10.1.2.3", [(FOR, "1.1.1.1"), (FOR, "198.51.100.1")], "198.51.100.1", "http"),  # a header each
    ("10.1.2.3", [(FOR, "10.9.9.9, 10.8.8.8")], "10.9.9.9", "http"),  # from inside
    ("::ffff:10.1.2.3", [(FOR, "::ffff:198.51.100.1")], "198.51.100.1", "http"),
    ("2001:db8::1", [(FOR, "[2001:4860::8]:4711")], "2001:4860::8", "http"),
    ("10.1.2.3", [(FOR, "198.51.100.1:4711")], "198.51.100.1", "http"),
    ("10.1.2.3", [(FOR, "1.1.1.1, unknown")], None, "http"),  # never what stands before it
    ("10.1.2.3", [(FOR, "1.1.1.1, 127.0.0.1; DROP")], None, "http"),
    ("10.1.2.3", [(FOR, " , ")], "10.1.2.3", "http"),
    ("10.1.2.3", [(FOR, "198.51.100.1"), (PROTO, "https")], "198.51.100.1", "https"),
    ("10.1.2.3", [(PROTO, "HTTPS")], "10.1.2.3", "https"),
    ("10.1.2.3", [(PROTO, "https, http")], "10.1.2.3", "http"),
    ("10.1.2.3", [(PROTO, "javascript")], "10.1.2.3", "http"),
    ("testclient", [(FOR, "198.51.100.1")], "testclient", "http"),
]


@pytest.mark.parametrize(("peer", "headers", "address", "scheme"), CASES)
def test_the_rightmost_that_is_no_proxy_of_ours(
    peer: str, headers: list[tuple[str, str]], address: str | None, scheme: str
) -> None:
    assert seen(peer, *headers) == (address, scheme)
    assert seen(peer, *headers, trusted=()) == (peer, "http")  # control: nobody is trusted unless we are told


@pytest.fixture
def behind(make_house: Callable[..., Any]) -> Any:
    """A house behind a proxy on 127.0.0.1, where its test's client sits."""
    make_house().make_key()
    return make_house(entry=Entry(trusted_proxies=("127.0.0.1",), trust_loopback=True))


def test_networks_of_keys_are_of_the_client(behind: Any, house: Any) -> None:
    key = behind.make_key(networks=["198.51.100.0/24"])
    inside, outside = {"X-Forwarded-For": "198.51.100.1"}, {"X-Forwarded-For": "198.51.100.1, 203.0.113.5"}
    assert behind.ask(key, headers=inside).status_code == 200
    refused = behind.ask(key, headers=outside)
    assert refused.status_code == 403
    assert "203.0.113.5" in refused.text
    assert behind.ask(key).status_code == 403
    assert (
        house.ask(key, headers=inside).status_code == 403
    )  # where no proxy is trusted, it is a word of the client


def test_who_comes_through_a_proxy_does_not_sit_here(behind: Any) -> None:
    for address in ("127.0.0.1", "198.51.100.1"):
        assert behind.ask(headers={"X-Forwarded-For": address}).status_code == 401
    assert behind.ask().status_code == 200


@pytest.mark.parametrize("proto", ["https", "http", None])
def test_cookies_are_secure_where_the_page_is(behind: Any, house: Any, proto: str | None) -> None:
    behind.management.create_user("yuna", password=PASSWORD)
    headers = {"Origin": "http://127.0.0.1:8080", **({"X-Forwarded-Proto": proto} if proto else {})}
    for server, secure in ((behind, proto == "https"), (house, False)):
        signed = server.ask(
            method="POST", path="/session", json={"name": "yuna", "password": PASSWORD}, headers=headers
        )
        assert signed.status_code == 200
        assert ("Secure" in signed.headers["set-cookie"]) == secure
        server.local.cookies.clear()


def test_failures_are_counted_by_client(behind: Any) -> None:
    def fail(number: int, address: str) -> int:
        body = {"name": f"nobody{number}", "password": PASSWORD}
        headers = {"Origin": "http://127.0.0.1:8080", "X-Forwarded-For": address}
        return behind.ask(method="POST", path="/session", json=body, headers=headers).status_code

    assert [fail(number, "198.51.100.1") for number in range(21)] == [401] * 20 + [429]
    assert fail(30, "198.51.100.2") == 401


def test_behind_a_proxy_there_must_be_keys(make_house: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no keys yet"):
        make_house(entry=Entry(trusted_proxies=("192.0.2.7",)))
    with pytest.raises(ConfigError, match=r"192\.0\.2\.0/24"):
        Entry(trusted_proxies=("everybody",))


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "trusted_proxy" in FLAGS
    environment = {"HANOK_SERVE_TRUSTED_PROXY": "192.0.2.7,10.0.0.0/8"}
    assert resolve_settings({}, environment=environment).trusted_proxy == ("192.0.2.7", "10.0.0.0/8")
    assert ServeSettings().trusted_proxy == ()


def test_uvicorn_believes_no_header_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does of everybody on this machine unless it is told not to."""
    made: list[uvicorn.Config] = []

    def server(config: uvicorn.Config, *_: Any, **__: Any) -> Any:
        made.append(config)
        return SimpleNamespace(
            run=lambda **_: None, failure=None, server_state=SimpleNamespace(connections=())
        )

    monkeypatch.setattr(app_module, "Server", server)
    with app_module.listen("127.0.0.1", 0) as listener:
        app_module.run_server(Operations(), listener, lambda: None)  # type: ignore[arg-type, return-value]
    (config,) = made
    config.load()
    assert "ProxyHeaders" not in type(config.loaded_app).__name__
