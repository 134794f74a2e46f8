"""Who may talk to the server, what it remembers, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from slow_engine import slow_down

from hanok.errors import ConfigError
from hanok.server.app import serve
from hanok.server.hosting import model_name
from hanok.server.hosts import refusal
from hanok.store.database import Store, feedback_file

HI = [{"role": "user", "content": "hi"}]
GREETING = "안녕하세요, 한옥이에요. 🏡"


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8080", None, True),
        ("localhost:8080", "http://localhost:8080", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("evil.example", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("localhost.:8080", None, False),
        ("", None, False),
        ("[broken", None, False),
        ("127.0.0.1:8080", "http://evil.example", False),
        ("127.0.0.1:8080", "http://127.0.0.1:3000", False),
        ("127.0.0.1:8080", "null", False),
    ],
)
def test_foreign_hosts_and_origins_are_refused(host: str, origin: str | None, allowed: bool) -> None:
    assert (refusal(host, origin) is None) == allowed


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/chat/completions", "/v1/feedback"])
def test_foreign_requests_get_403_everywhere(server: Any, headers: dict[str, str], path: str) -> None:
    method = "POST" if path.endswith(("completions", "feedback")) else "GET"
    response = server.http.request(method, path, headers=headers, json={} if method == "POST" else None)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden_host"


def test_only_loopback_is_served_until_there_are_keys(random_run: Path) -> None:
    with pytest.raises(ConfigError, match="has no keys yet"):
        serve(random_run / "model", host="0.0.0.0")


def test_a_taken_port_is_said(random_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(random_run / "model", port=port)


def test_names_of_models(tmp_path: Path) -> None:
    (tmp_path / "village").mkdir()
    (tmp_path / "village" / "run.json").write_text("{}")
    assert model_name(tmp_path / "village" / "model") == "village"
    assert model_name(tmp_path / "village" / "improve-001" / "model") == "village-improve-001"
    assert model_name(tmp_path / "elsewhere" / "model") == "elsewhere"


# ---- going away -----------------------------------------------------------------------------------------------


@pytest.fixture
def slow(server: Any) -> Iterator[Any]:
    """The server with an engine that takes 10 ms a token: 1,500 tokens are 15 seconds."""
    again = slow_down(server.engine, 0.01)
    yield server
    again()


def endless(server: Any, **changes: Any) -> dict[str, Any]:
    ends = {str(token): -100 for token in server.engine.tokenizer.stop_ids}
    return {"model": server.model, "messages": HI, "max_tokens": 1500, "logit_bias": ends, **changes}


def freed(server: Any) -> bool:
    end = time.monotonic() + 3.0
    while server.engine._scheduler.has_work() and time.monotonic() < end:
        time.sleep(0.02)
    return not server.engine._scheduler.has_work()


def test_a_client_that_stops_reading_frees_its_slot(slow: Any) -> None:
    with slow.http.stream("POST", "/v1/chat/completions", json=endless(slow, stream=True)) as response:
        for _, _line in zip(range(6), response.iter_lines(), strict=False):
            pass
        assert slow.engine._scheduler.has_work()
    assert freed(slow)


def test_a_client_that_gives_up_waiting_frees_its_slot(slow: Any) -> None:
    with httpx.Client(base_url=slow.url) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=endless(slow), timeout=0.5)
    assert freed(slow)


# ---- feedback -------------------------------------------------------------------------------------------------


def chat(server: Any, **options: Any) -> Any:
    return server.openai.chat.completions.create(
        model=server.model, messages=HI, temperature=0, max_tokens=60, **options
    )


def rows(server: Any, request_id: str) -> list[Any]:
    return [row for row in server.store.read_feedback() if row.request_id == request_id]


def test_feedback_is_kept_with_the_conversation(taught: Any) -> None:
    done = chat(taught)
    opinion = {
        "request_id": done.id, "rating": -1, "correction": " 반갑습니다. ", "reason": "too stiff", "user": "영희",
    }  # fmt: skip
    response = taught.http.post("/v1/feedback", json=opinion)
    assert response.status_code == 201
    (row,) = rows(taught, done.id)
    assert response.json() == {"id": row.id, "object": "feedback"}
    assert row.messages == [*HI, {"role": "assistant", "content": GREETING}]
    assert (row.rating, row.correction, row.reason, row.user) == (-1, "반갑습니다.", "too stiff", "영희")
    assert row.model_hash == taught.model_hash


def test_streamed_answers_and_every_sample_can_be_judged(taught: Any, errand_tools: Any) -> None:
    with chat(taught, stream=True, n=2) as stream:
        identifier = [chunk.id for chunk in stream][-1]
    taught.http.post("/v1/feedback", json={"request_id": identifier, "rating": 1, "choice": 1})
    assert rows(taught, identifier)[0].messages[-1]["content"] == GREETING

    done = taught.openai.chat.completions.create(
        model=taught.model, messages=[{"role": "user", "content": "open?"}], tools=errand_tools, temperature=0
    )
    taught.http.post("/v1/feedback", json={"request_id": done.id, "rating": 1})
    (row,) = rows(taught, done.id)
    assert row.messages[-1]["tool_calls"][0]["function"]["name"] == "hours"
    assert row.tools[0]["function"]["name"] == "hours"


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"request_id": "chatcmpl-unknown"}, 404, "no request"),
        ({"choice": 1}, 400, "choice = 1 of 1 answers"),
        ({"rating": 0}, 400, "rating"),
        ({"rating": None}, 400, "rating"),
        ({"correction": "x" * 20_001}, 400, "correction"),
    ],
)
def test_feedback_that_fits_nothing_is_refused(
    taught: Any, changes: dict[str, Any], status: int, message: str
) -> None:
    done = chat(taught)
    response = taught.http.post("/v1/feedback", json={"request_id": done.id, "rating": 1, **changes})
    assert response.status_code == status
    assert message in response.json()["error"]["message"]
    assert rows(taught, done.id) == []


def test_store_false_leaves_no_trace(taught: Any) -> None:
    done = chat(taught, store=False)
    response = taught.http.post("/v1/feedback", json={"request_id": done.id, "rating": 1})
    assert response.status_code == 404


# ---- the process ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(run: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`hanok serve RUN --port 0`, as a user starts it."""
    started = subprocess.Popen(
        [sys.executable, "-m", "hanok", "serve", str(run), "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert started.stderr is not None
        line = started.stderr.readline()
        while line and not line.startswith("chat page: "):
            line = started.stderr.readline()
        with httpx.Client(base_url=line.removeprefix("chat page: ").strip(), timeout=30) as client:
            yield started, client
    finally:
        started.kill()
        started.communicate()


def body(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    model = client.get("/v1/models").json()["data"][0]["id"]
    return {"model": model, "messages": HI, "temperature": 0, **changes}


def test_feedback_survives_a_killed_server(taught_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(taught_run, tmp_path / "run"))
    with process(run) as (running, client):
        done = client.post("/v1/chat/completions", json=body(client)).json()
        assert done["choices"][0]["message"]["content"] == GREETING
        opinion = {"request_id": done["id"], "rating": -1, "correction": "반가워요."}
        identifier = client.post("/v1/feedback", json=opinion).json()["id"]
        running.kill()
        running.wait()
    with Store(feedback_file(run / "model")) as store:
        assert [
            (row.id, row.correction) for row in store.read_feedback() if row.request_id == done["id"]
        ] == [(identifier, "반가워요.")]


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_sigterm_lets_the_running_answer_finish(random_run: Path, stream: bool) -> None:
    with process(random_run) as (running, client):
        ends = {str(token): -100 for token in range(10)}
        asked = body(client, stream=stream, max_tokens=1200, logit_bias=ends)
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=asked) as response:
                lines = []
                for line in response.iter_lines():
                    lines.append(line)
                    if len(lines) == 6:
                        running.send_signal(signal.SIGTERM)
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            assert lines[-2] == "data: [DONE]"
            reason = events[-1]["choices"][0]["finish_reason"]
        else:
            reason = _signal_in_the_middle(running, client, asked).json()["choices"][0]["finish_reason"]
        assert reason == "length"
        assert running.wait(timeout=10) == 0
        with pytest.raises(httpx.ConnectError):
            client.get("/health")


def _signal_in_the_middle(
    running: subprocess.Popen[str], client: httpx.Client, asked: dict[str, Any]
) -> httpx.Response:
    import threading

    timer = threading.Timer(0.3, running.send_signal, args=(signal.SIGTERM,))
    timer.start()
    try:
        return client.post("/v1/chat/completions", json=asked)
    finally:
        timer.join()
