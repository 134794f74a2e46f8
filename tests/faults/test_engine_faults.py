"""What goes wrong behind the service: its engine dies, is overrun, or out of memory (F11 to F13 in docs/reliability.md).

Each test shows with a negative control that it can fail. Times are scaled down through settings that a service has anyway.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
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


# ---- F11: the engine's worker dies in the middle ------------------------------------------------------------------


def kill_worker(service: Any) -> None:
    """The engine's thread gets what ends it."""
    scheduler, step = service.engine._scheduler, service.engine._scheduler.step

    def die() -> None:
        scheduler.step = step
        raise SystemExit(9)

    scheduler.step = die


def test_f11_streams_get_an_error_and_the_worker_comes_back(
    served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
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
    served_model: Path, monkeypatch: pytest.MonkeyPatch,
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


def test_f11_steps_that_fail_make_it_not_ready_until_they_do_not(served_model: Path) -> None:
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


def overload(service: Any, crowd: Any, seconds: float) -> tuple[list[float], list[float], list[int]]:
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
    served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model, max_running=2, max_waiting=4) as service:
        service.slow_down(0.01)
        overload(service, crowd, 1.0)
        before = service.http.get("/admin/status").json()["process"]["rss_bytes"]
        admitted, refused, statuses = overload(service, crowd, 8.0)
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
    served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model, max_running=2) as service:
        service.slow_down(0.01)
        _, refused, statuses = overload(service, crowd, 1.0)
        assert set(statuses) == {200}
        assert not refused


# ---- F13: the cache is full ---------------------------------------------------------------------------------------


def long_answers(service: Any, crowd: Any, count: int) -> list[str]:
    def ask(number: int) -> str:
        prompt = [{"role": "user", "content": f"{number} " * 150}]
        body = service.body(stream=False, messages=prompt, max_tokens=200)
        with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as http:
            answer = http.post(serving.PATH, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    return list(crowd.map(ask, range(count)))


def test_f13_answers_are_the_same_where_blocks_run_out(
    served_model: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    with serving.service(served_model) as roomy:
        expected = long_answers(roomy, crowd, 12)
        assert roomy.engine.metrics().preemptions == 0  # the control: with room nobody is pushed out
    assert len(set(expected)) > 1
    with serving.service(served_model, cache_bytes=1 << 20) as tight:
        assert long_answers(tight, crowd, 12) == expected
        assert tight.engine.metrics().preemptions > 0
        assert serving.until(tight.idle, 5)
        tight.engine._scheduler.check()
