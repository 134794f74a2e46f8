"""Clients that are slow, gone or too large (F14 to F17 in docs/reliability.md).

Each test shows with a negative control that it can fail. Times are scaled down through settings that a service has anyway.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving

from hanok.kernels.native import native_available

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not native_available(), reason="the cache's blocks are native"),
]


# ---- F14: readers that take a byte a second -----------------------------------------------------------------------


def slow_readers(service: Any, count: int, seconds: float) -> tuple[list[socket.socket], float]:
    """Connections that take a byte a second of streams that never end by themselves; and the seconds until all were cut."""
    clients = [serving.connect(service, receive=2048) for _ in range(count)]
    for client in clients:
        client.sendall(serving.raw(service, max_tokens=1900, logprobs=True, top_logprobs=20))
    cut, began = service.operations.guard.cut, time.monotonic()
    while service.operations.guard.cut - cut < count and time.monotonic() - began < seconds:
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.recv(1)
        time.sleep(1.0)
    return clients, time.monotonic() - began


def test_f14_slow_readers_are_cut_and_others_do_not_notice(served_model: Path) -> None:
    with serving.service(served_model, **serving.QUICK) as service:
        clients, seconds = slow_readers(service, 50, 90)
        assert service.operations.guard.cut >= 50
        assert serving.until(service.idle, 10)
        assert (
            service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=5)).status_code == 200
        )
        for client in clients:
            client.close()
        print(f"50 readers of a byte a second were cut after {seconds:.0f} s")


def test_f14_control_without_the_guard_they_stay(served_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving.service(served_model, **serving.QUICK) as service:
        monkeypatch.setattr(service.operations.guard, "look", lambda _connections: None)
        clients, _ = slow_readers(service, 4, 15)
        assert service.operations.guard.cut == 0
        assert len(service.engine._open) > 0 or service.operations.connections() >= 4
        for client in clients:
            client.close()


# ---- F15: slowloris -----------------------------------------------------------------------------------------------


def loris(service: Any) -> list[socket.socket]:
    """200 connections: silent, with a head that drips, with a body that drips."""
    clients = [serving.connect(service) for _ in range(200)]
    whole = serving.raw(service)
    head = whole.index(b"\r\n\r\n") + 4
    for number, client in enumerate(clients):
        client.sendall((b"", whole[:20], whole[: head + 3])[number % 3])
    return clients


def drip(clients: list[socket.socket], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number, client in enumerate(clients):
            if number % 3:
                with contextlib.suppress(OSError):
                    client.send(b"x")
        time.sleep(0.5)


def test_f15_slow_heads_and_bodies_are_cut_and_others_served(served_model: Path) -> None:
    with serving.service(served_model, **serving.QUICK) as service:
        clients = loris(service)
        for _ in range(3):
            drip(clients, 1.5)
            assert (
                service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=3)).status_code
                == 200
            )
        assert serving.until(lambda: all(serving.closed(client) for client in clients), 5)
        assert serving.until(lambda: service.operations.connections() <= 1, 5)
        for client in clients:
            client.close()


def test_f15_control_without_the_guard_they_stay(served_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving.service(served_model, **serving.QUICK) as service:
        monkeypatch.setattr(service.operations.guard, "look", lambda _connections: None)
        clients = loris(service)
        drip(clients, 4.5)
        assert not any(serving.closed(client) for client in clients)
        for client in clients:
            client.close()


# ---- F16: a storm of disconnects ----------------------------------------------------------------------------------


def storm(service: Any, crowd: Any, count: int, seed: int) -> None:
    draw = random.Random(seed)

    def drop(events: int) -> None:
        with (
            httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http,
            http.stream("POST", serving.PATH, json=service.body()) as response,
        ):
            for _ in zip(range(events), response.iter_lines(), strict=False):
                pass

    list(crowd.map(drop, [draw.randrange(1, 60) for _ in range(count)]))


def test_f16_a_thousand_dropped_streams_leave_nothing_behind(served_model: Path) -> None:
    with serving.service(served_model) as service, concurrent.futures.ThreadPoolExecutor(32) as crowd:
        storm(service, crowd, 50, seed=1)
        assert serving.until(service.idle, 5)
        before = service.http.get("/admin/status").json()["process"]
        storm(service, crowd, 1000, seed=2)
        began = time.monotonic()
        assert serving.until(service.idle, 5)
        freed = time.monotonic() - began
        assert serving.until(lambda: service.operations.connections() <= 1, 5)
        after = service.http.get("/admin/status").json()["process"]
        assert after["open_fds"] <= before["open_fds"] + 2
        service.engine._scheduler.check()
        assert service.operations.lifecycle.active == 0
        print(f"seed 2, 1,000 streams dropped; all free {1e3 * freed:.0f} ms after the last")


def test_f16_control_answers_that_nobody_cancels_go_on(
    served_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving.service(served_model) as service, concurrent.futures.ThreadPoolExecutor(32) as crowd:
        service.slow_down(0.005)
        monkeypatch.setattr(service.engine, "_cancel", lambda _generations: None)
        storm(service, crowd, 20, seed=1)
        assert not serving.until(service.idle, 1.0)
        monkeypatch.undo()
        service.operations.interrupt()


# ---- and what a server says to bodies that are too large ----------------------------------------------------------


def test_f17_bodies_over_the_limit(served_model: Path) -> None:
    """The fuzz of F17 is in tests/server; here what the server's own limits are for."""
    with serving.service(served_model, max_body_mib=1) as service:
        before = service.http.get("/admin/status").json()["process"]["rss_bytes"]
        kind = {"Content-Type": "application/json"}
        huge = json.dumps(service.body(messages=[{"role": "user", "content": "x" * (2 << 20)}]))
        answer = service.http.post(serving.PATH, content=huge, headers=kind)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

        def parts() -> Iterator[bytes]:
            for _ in range(64):
                yield b"[" * (1 << 20)

        with contextlib.suppress(httpx.HTTPError):  # it may close before the client has sent all
            assert service.http.post(serving.PATH, content=parts(), headers=kind).status_code == 413
        deep = b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        assert service.http.post(serving.PATH, content=deep, headers=kind).status_code in (400, 422)
        assert (
            service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=3)).status_code == 200
        )
        assert service.http.get("/admin/status").json()["process"]["rss_bytes"] < before + (50 << 20)
