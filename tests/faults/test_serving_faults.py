"""Faults of serving, by their numbers in docs/reliability.md. Each test shows with a negative control that it can fail.

Times are scaled down (limits of 10 and 30 s to 1 and 2 s) through the settings that a service has anyway.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import torch

from hanok.kernels.native import native_available
from hanok.store.database import Store, feedback_file

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not native_available(), reason="the cache's blocks are native"),
]
QUICK = {"header_seconds": 1.0, "body_seconds": 2.0, "write_seconds": 2.0}


@pytest.fixture
def crowd() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=128) as pool:
        yield pool


# ---- F10: SIGTERM with 32 streams in flight -----------------------------------------------------------------------


class Process:
    """`hanok serve`, as a user starts it."""

    def __init__(self, model: Path, *, grace: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hanok", "serve", str(model), "--port", "0", "--grace", str(grace)],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        while line and not line.startswith("chat page: "):
            line = self.process.stderr.readline()
        self.url = line.removeprefix("chat page: ").strip()
        self.log: list[str] = []
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self.reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


def put_streams(
    serving: ModuleType, url: str, count: int, tokens: int, signalled: signal.Signals, running: Any
) -> Any:
    """Streams, a signal when all have begun; their lines, and what a probe and a newcomer were told then."""
    name = httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"]
    body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "stream": True,
            "temperature": 0, "logit_bias": {str(token): -100 for token in range(10)}}  # fmt: skip
    begun, found = threading.Semaphore(0), []

    def stream() -> None:
        lines: list[str] = []
        found.append(lines)
        try:
            with (
                httpx.Client(base_url=url, timeout=120) as http,
                http.stream("POST", serving.PATH, json=body) as response,
            ):
                for line in response.iter_lines():
                    lines.append(line)
                    if len(lines) == 5:
                        begun.release()
        except httpx.HTTPError:
            pass

    with httpx.Client(base_url=url, timeout=60) as probe:
        assert probe.get("/readyz").status_code == 200
        threads = [threading.Thread(target=stream) for _ in range(count)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=120)
        running.send_signal(signalled)
        told: list[Any] = []
        if signalled == signal.SIGTERM:
            began = time.monotonic()
            while (ready := probe.get("/readyz")).status_code == 200 and time.monotonic() - began < 5:
                pass
            told = [
                ready,
                time.monotonic() - began,
                probe.post(serving.PATH, json=body),
                probe.get("/healthz"),
            ]
        for thread in threads:
            thread.join(120)
    return found, told


def test_f10_every_stream_ends_properly_within_the_grace_time(
    serving: ModuleType, served_model: Path
) -> None:
    with Process(served_model, grace=3.0) as server:
        found, (ready, seconds, refused, health) = put_streams(
            serving, server.url, 32, 1900, signal.SIGTERM, server.process
        )
        signalled = time.monotonic()
        assert ready.status_code == 503
        assert seconds <= 0.1 + 0.4  # the answer's own time on a machine that others use
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "stopping"
        assert health.status_code == 200
        assert [serving.ended_properly(lines) for lines in found] == [True] * 32
        assert server.process.wait(30) == 0
        assert time.monotonic() - signalled < 30
    finished = [
        last["id"] for lines in found if "error" not in (last := serving.events(lines)[-1])
    ]  # fmt: skip
    with Store(feedback_file(served_model)) as store:  # no row of an answer that was given is lost
        assert all(store.find_request(one) is not None for one in finished)
    print(f"{len(finished)} of 32 finished, not ready after {1e3 * seconds:.0f} ms")


def test_f10_control_streams_of_a_killed_server_do_not_end_properly(
    serving: ModuleType, served_model: Path
) -> None:
    with Process(served_model, grace=3.0) as server:
        found, _ = put_streams(serving, server.url, 4, 1900, signal.SIGKILL, server.process)
    assert not any(serving.ended_properly(lines) for lines in found)


def test_f10_a_second_signal_ends_it_at_once(serving: ModuleType, served_model: Path) -> None:
    with Process(served_model, grace=60.0) as server:
        name = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"]
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1900, "stream": True, "n": 16,
                "logit_bias": {str(token): -100 for token in range(10)}}  # fmt: skip
        with (
            httpx.Client(base_url=server.url, timeout=60) as http,
            http.stream("POST", serving.PATH, json=body) as response,
        ):
            next(response.iter_lines())
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert server.process.poll() is None  # it drains
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)
            assert time.monotonic() - began < 3.0


# ---- F11: the engine's worker dies in the middle ------------------------------------------------------------------


def kill_worker(service: Any) -> None:
    """The engine's thread gets what ends it."""
    scheduler, step = service.engine._scheduler, service.engine._scheduler.step

    def die() -> None:
        scheduler.step = step
        raise SystemExit(9)

    scheduler.step = die


def test_f11_streams_get_an_error_and_the_worker_comes_back(
    serving: ModuleType, served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model) as service:
        again = service.slow_down(0.01)
        begun = threading.Semaphore(0)
        streams = [crowd.submit(serving.read_stream, service, begun) for _ in range(8)]
        for _ in streams:
            begun.acquire()
        again()
        kill_worker(service)
        died = time.monotonic()
        lines = [stream.result(10) for stream in streams]
        assert time.monotonic() - died < 5.0
        assert all(serving.ended_properly(one) for one in lines)
        assert all("error" in serving.events(one)[-1] for one in lines)
        assert serving.until(lambda: service.http.get("/readyz").status_code == 200, 10)
        assert service.idle()
        answer = service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=5))
        assert answer.status_code == 200

        def told() -> bool:
            report = service.http.get("/admin/status").json()
            return report["totals"]["errors"] >= 8 and any(
                one["what"] == "engine" for one in report["errors"]
            )

        assert serving.until(told, 5)


def test_f11_control_without_the_net_streams_hang(
    serving: ModuleType, served_model: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with serving.service(served_model) as service:
        again = service.slow_down(0.01)
        monkeypatch.setattr(service.engine, "_collapse", lambda _error: None)
        begun, lines = threading.Semaphore(0), []
        thread = threading.Thread(target=lambda: lines.append(serving.read_stream(service, begun)))
        thread.start()
        begun.acquire()
        again()
        kill_worker(service)
        thread.join(3.0)
        assert thread.is_alive()
        monkeypatch.undo()
        service.operations.interrupt()
        thread.join()
        service.engine._thread = None


def test_f11_steps_that_fail_make_it_not_ready_until_they_do_not(
    serving: ModuleType, served_model: Path
) -> None:
    with serving.service(served_model) as service:
        scheduler, step = service.engine._scheduler, service.engine._scheduler.step

        def fail() -> None:
            raise RuntimeError("the kernel is gone")

        scheduler.step = fail
        assert service.http.post(serving.PATH, json=service.body(stream=False)).status_code == 500
        assert serving.until(lambda: service.http.get("/readyz").status_code == 503, 5)
        assert service.http.get("/healthz").status_code == 200
        scheduler.step = step
        assert serving.until(lambda: service.http.get("/readyz").status_code == 200, 10)


# ---- F12: ten times as much as it can take ------------------------------------------------------------------------


def overload(
    serving: ModuleType, service: Any, crowd: Any, seconds: float
) -> tuple[list[float], list[float], list[int]]:
    """Seconds of those admitted and of those refused, statuses of all."""
    admitted: list[float] = []
    refused: list[float] = []
    statuses: list[int] = []
    end = time.monotonic() + seconds

    def client() -> None:
        with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as http:
            while time.monotonic() < end:
                began = time.monotonic()
                answer = http.post(serving.PATH, json=service.body(stream=False, max_tokens=8))
                statuses.append(answer.status_code)
                (admitted if answer.status_code == 200 else refused).append(time.monotonic() - began)
                if answer.status_code == 503:
                    assert int(answer.headers["Retry-After"]) >= 1
                    time.sleep(0.2)

    for done in [crowd.submit(client) for _ in range(60)]:
        done.result()
    return admitted, refused, statuses


def test_f12_overload_is_refused_quickly_and_passes(
    serving: ModuleType, served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model, max_running=2, max_waiting=4) as service:
        service.slow_down(0.01)
        overload(serving, service, crowd, 1.0)
        before = service.http.get("/admin/status").json()["process"]["rss_bytes"]
        admitted, refused, statuses = overload(serving, service, crowd, 8.0)
        after = service.http.get("/admin/status").json()["process"]["rss_bytes"]
        assert set(statuses) == {200, 503}
        assert len(refused) > len(admitted)
        # at most two running and four waiting, 8 steps each
        assert sorted(admitted)[int(0.99 * len(admitted))] < 5.0
        assert after < 1.1 * before
        assert serving.until(service.idle, 5)
        print(
            f"admitted {len(admitted)}, refused {len(refused)} in {1e3 * sorted(refused)[len(refused) // 2]:.0f} ms (median)"
        )


def test_f12_control_without_a_bound_nobody_is_refused(
    serving: ModuleType, served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model, max_running=2) as service:
        service.slow_down(0.01)
        _, refused, statuses = overload(serving, service, crowd, 1.0)
        assert set(statuses) == {200}
        assert not refused


# ---- F13: the cache is full ---------------------------------------------------------------------------------------


def long_answers(serving: ModuleType, service: Any, crowd: Any, count: int) -> list[str]:
    def ask(number: int) -> str:
        prompt = [{"role": "user", "content": f"{number} " * 150}]
        body = service.body(stream=False, messages=prompt, max_tokens=200)
        with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as http:
            answer = http.post(serving.PATH, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    return list(crowd.map(ask, range(count)))


def test_f13_answers_are_the_same_where_blocks_run_out(
    serving: ModuleType, served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model) as roomy:
        expected = long_answers(serving, roomy, crowd, 12)
        assert roomy.engine.metrics().preemptions == 0  # the control: with room nobody is pushed out
    assert len(set(expected)) > 1
    with serving.service(served_model, cache_bytes=1 << 20) as tight:
        assert long_answers(serving, tight, crowd, 12) == expected
        assert tight.engine.metrics().preemptions > 0
        assert serving.until(tight.idle, 5)
        tight.engine._scheduler.check()


# ---- F14: readers that take a byte a second -----------------------------------------------------------------------


def slow_readers(
    serving: ModuleType, service: Any, count: int, seconds: float
) -> tuple[list[socket.socket], float]:
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


def test_f14_slow_readers_are_cut_and_others_do_not_notice(serving: ModuleType, served_model: Path) -> None:
    with serving.service(served_model, **QUICK) as service:
        clients, seconds = slow_readers(serving, service, 50, 90)
        assert service.operations.guard.cut >= 50
        assert serving.until(service.idle, 10)
        assert (
            service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=5)).status_code == 200
        )
        for client in clients:
            client.close()
        print(f"50 readers of a byte a second were cut after {seconds:.0f} s")


def test_f14_control_without_the_guard_they_stay(
    serving: ModuleType, served_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving.service(served_model, **QUICK) as service:
        monkeypatch.setattr(service.operations.guard, "look", lambda _connections: None)
        clients, _ = slow_readers(serving, service, 4, 15)
        assert service.operations.guard.cut == 0
        assert len(service.engine._open) > 0 or service.operations.connections() >= 4
        for client in clients:
            client.close()


# ---- F15: slowloris -----------------------------------------------------------------------------------------------


def loris(serving: ModuleType, service: Any) -> list[socket.socket]:
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


def test_f15_slow_heads_and_bodies_are_cut_and_others_served(serving: ModuleType, served_model: Path) -> None:
    with serving.service(served_model, **QUICK) as service:
        clients = loris(serving, service)
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


def test_f15_control_without_the_guard_they_stay(
    serving: ModuleType, served_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving.service(served_model, **QUICK) as service:
        monkeypatch.setattr(service.operations.guard, "look", lambda _connections: None)
        clients = loris(serving, service)
        drip(clients, 4.5)
        assert not any(serving.closed(client) for client in clients)
        for client in clients:
            client.close()


# ---- F16: a storm of disconnects ----------------------------------------------------------------------------------


def storm(serving: ModuleType, service: Any, crowd: Any, count: int, seed: int) -> None:
    draw = random.Random(seed)

    def drop(events: int) -> None:
        with (
            httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http,
            http.stream("POST", serving.PATH, json=service.body()) as response,
        ):
            for _ in zip(range(events), response.iter_lines(), strict=False):
                pass

    list(crowd.map(drop, [draw.randrange(1, 60) for _ in range(count)]))


def test_f16_a_thousand_dropped_streams_leave_nothing_behind(serving: ModuleType, served_model: Path) -> None:
    with serving.service(served_model) as service, concurrent.futures.ThreadPoolExecutor(32) as crowd:
        storm(serving, service, crowd, 50, seed=1)
        assert serving.until(service.idle, 5)
        before = service.http.get("/admin/status").json()["process"]
        storm(serving, service, crowd, 1000, seed=2)
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
    serving: ModuleType, served_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving.service(served_model) as service, concurrent.futures.ThreadPoolExecutor(32) as crowd:
        service.slow_down(0.005)
        monkeypatch.setattr(service.engine, "_cancel", lambda _generations: None)
        storm(serving, service, crowd, 20, seed=1)
        assert not serving.until(service.idle, 1.0)
        monkeypatch.undo()
        service.operations.interrupt()


# ---- F22: another model while requests run ------------------------------------------------------------------------


def replace_model(service: Any, directory: Path) -> httpx.Response:
    return service.http.post(f"/admin/models/{service.model}/replace", json={"directory": str(directory)})


def under_load(serving: ModuleType, service: Any, crowd: Any, end: threading.Event) -> list[Any]:
    """Statuses, and how streams ended, until the event is set."""
    seen: list[Any] = []

    def client(number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
            while not end.is_set():
                if number % 2:
                    seen.append(serving.ended_properly(serving.read_stream(service, max_tokens=60)))
                else:
                    seen.append(
                        http.post(serving.PATH, json=service.body(stream=False, max_tokens=20)).status_code
                    )

    for number in range(6):
        crowd.submit(client, number)
    return seen


def answer(serving: ModuleType, service: Any) -> dict[str, Any]:
    done = service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=20))
    assert done.status_code == 200
    return done.json()


def test_f22_a_model_is_replaced_under_load(
    serving: ModuleType, served_model: Path, tmp_path: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    other = serving.make_model(tmp_path, seed=4)
    with serving.service(served_model, probation=1.0) as service:
        before, old, end = answer(serving, service), service.engine, threading.Event()
        seen = under_load(serving, service, crowd, end)
        assert serving.until(lambda: len(seen) > 6, 30)
        replaced = replace_model(service, other)
        assert replaced.status_code == 200, replaced.text
        after = answer(serving, service)
        assert after["choices"][0]["message"]["content"] != before["choices"][0]["message"]["content"]
        count = len(seen)
        assert serving.until(lambda: len(seen) > count + 6, 30)
        assert serving.until(lambda: old._closed, 30)  # once nobody uses it
        end.set()
        crowd.shutdown()
        assert set(seen) <= {200, True}  # nobody noticed
    with serving.service(
        other
    ) as fresh:  # the control: it is what that model says, without anything of the old one's cache
        assert answer(serving, fresh)["choices"] == after["choices"]


def spoil(model: Path, name: str) -> Path:
    """A model whose head or embedding of one token holds what is no number when it is multiplied."""
    from hanok.models.checkpoint import load_model, save_model

    decoder = load_model(model)
    with torch.no_grad():
        weight = dict(decoder.named_parameters())[name]
        weight.mul_(3e38)
    save_model(decoder, model)
    return model


def test_f22_a_model_without_finite_numbers_is_never_used(
    serving: ModuleType, served_model: Path, tmp_path: Path
) -> None:
    bad = spoil(serving.make_model(tmp_path, seed=5), "norm.weight")
    with serving.service(served_model) as service:
        before = answer(serving, service)["choices"]
        began = time.monotonic()
        refused = replace_model(service, bad)
        assert refused.status_code == 400
        assert "the old one goes on" in refused.json()["error"]["message"]
        assert time.monotonic() - began < 30
        assert answer(serving, service)["choices"] == before
        assert replace_model(service, tmp_path / "nowhere").status_code == 400
        assert service.http.get("/readyz").status_code == 200


def test_f22_a_model_that_fails_later_is_taken_back(
    serving: ModuleType, served_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of trying out: without it the bad one is used, and its failures take it back."""
    bad = spoil(serving.make_model(tmp_path, seed=5), "norm.weight")
    monkeypatch.setattr("hanok.server.operations.replacing.try_out", lambda _engine: None)
    with serving.service(served_model) as service:
        before = answer(serving, service)["choices"]
        assert replace_model(service, bad).status_code == 200
        began = time.monotonic()
        statuses = [
            service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=5)).status_code
            for _ in range(4)
        ]
        assert statuses[0] != 200
        assert serving.until(
            lambda: (
                service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=5)).status_code
                == 200
            ),
            25,
        )
        assert time.monotonic() - began < 30
        assert answer(serving, service)["choices"] == before
        errors = service.http.get("/admin/status").json()["errors"]
        assert any(one["what"] == "model taken back" for one in errors)


# ---- and what a server says to bodies that are too large ----------------------------------------------------------


def test_f17_bodies_over_the_limit(serving: ModuleType, served_model: Path) -> None:
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
