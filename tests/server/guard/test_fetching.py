"""Documents by their address: only where the policy has a rule for it, by its fetcher, and with nothing said of why not."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import httpx
import pytest
from odd_web import page, says, web

from hanok.guard.fetch import NOT_FETCHED
from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.server.routes.documents import FETCHES

PAGE = "<html><body><article><h1>휴가</h1><p>휴가는 매년 15일이다. 신청은 부서장에게 한다.</p></article></body></html>".encode()


def fetch(server: Any, **body: Any) -> httpx.Response:
    return server.loop.run_until_complete(server.client.post("/v1/files/fetch", json=body))


def guard_for(port: int, monkeypatch: pytest.MonkeyPatch) -> Guard:
    """127.0.0.1 plays the internet."""
    guard = Guard(parse_policy("format = 1\n[rules.fetch]\nseconds = 5\n"))
    book = guard.of("default")
    fetcher = dataclasses.replace(
        book.fetcher, ports=frozenset({port}), resolve=lambda _h, _p: ["127.0.0.1"], why_not=lambda _a: ""
    )  # fmt: skip
    monkeypatch.setattr(guard, "of", lambda _tenant: dataclasses.replace(book, fetcher=fetcher))
    return guard


def test_a_page_becomes_a_document(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with web(says(page(PAGE, "Content-Type: text/html; charset=utf-8"))) as site:
        server = scripted(guard_for(site.port, monkeypatch))
        answer = fetch(server, url=site.url("/rules/leave?id=3", host="a.com"))
        assert answer.status_code == 200, answer.text
        assert answer.json()["filename"] == "leave.html"
        named = fetch(server, url=site.url(host="a.com"), name="handbook.html", purpose="user_data").json()
        assert named["id"] == answer.json()["id"]  # the same bytes are the same file
        content = server.get(f"/v1/files/{named['id']}/content").content
        assert content == PAGE


def test_without_the_rule_nothing_is_asked(scripted: Any) -> None:
    with web(says(page(PAGE))) as site:
        server = scripted("format = 1\n")
        assert fetch(server, url=site.url()).status_code == 403
        assert site.connections == 0


def test_the_client_is_not_told_why(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with web(says(page(b"", status="404 Not Found"))) as site:
        server = scripted(guard_for(site.port, monkeypatch))
        said = [
            fetch(server, url=url)
            for url in (site.url(), "http://10.0.0.1/", "ftp://a.com/", "http://127.0.0.1:1/", "x")
        ]
        assert {one.status_code for one in said} == {400}
        assert {one.json()["error"]["message"] for one in said} == {NOT_FETCHED}
        assert site.connections == 1


def test_so_many_at_a_time(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    held = threading.Event()

    def slow(_head: str, sock: Any) -> None:
        held.wait(20)
        sock.sendall(page(PAGE, "Content-Type: text/html"))

    with web(slow) as site:
        server = scripted(guard_for(site.port, monkeypatch))

        async def crowd() -> list[int]:
            post = [
                asyncio.create_task(server.client.post("/v1/files/fetch", json={"url": site.url(f"/{n}")}))
                for n in range(FETCHES)
            ]
            while site.connections < FETCHES:
                await asyncio.sleep(0.01)
            over = await server.client.post("/v1/files/fetch", json={"url": site.url("/more")})
            held.set()
            return [over.status_code, *[(await one).status_code for one in post]]

        assert server.loop.run_until_complete(crowd()) == [503, *[200] * FETCHES]
        assert site.connections == FETCHES
