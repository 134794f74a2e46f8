"""A server that is told to stop, by its number in docs/reliability.md (F10).

Each test shows with a negative control that it can fail. Times are scaled down through settings that a service has anyway.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving

from hanok.kernels.native import native_available
from hanok.store.database import Store, feedback_file

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not native_available(), reason="the cache's blocks are native"),
]


# ---- F10: SIGTERM with 32 streams in flight -----------------------------------------------------------------------


class Process:
    """`hanok serve`, as a user starts it, but for the guard: a random model writes one long word, which would wait in there."""

    def __init__(self, model: Path, *, grace: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hanok", "serve", str(model), "--port", "0", "--grace", str(grace), "--guard", "off"],
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


def put_streams(url: str, count: int, tokens: int, signalled: signal.Signals, running: Any) -> Any:
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


def test_f10_every_stream_ends_properly_within_the_grace_time(served_model: Path) -> None:
    with Process(served_model, grace=3.0) as server:
        found, (ready, seconds, refused, health) = put_streams(
            server.url, 32, 1900, signal.SIGTERM, server.process
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


def test_f10_control_streams_of_a_killed_server_do_not_end_properly(served_model: Path) -> None:
    with Process(served_model, grace=3.0) as server:
        found, _ = put_streams(server.url, 4, 1900, signal.SIGKILL, server.process)
    assert not any(serving.ended_properly(lines) for lines in found)


def test_f10_a_second_signal_ends_it_at_once(served_model: Path) -> None:
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
