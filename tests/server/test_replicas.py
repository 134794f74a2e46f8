"""Replicas under Ray Serve answer as one server does. Where Ray is not installed, only what is refused is tested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from hanok.cli.serve import serve
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.server import replicas as replicas_module
from hanok.server.app import listen
from hanok.server.replicas import serve_replicas

# on a busy machine Ray would take slow processes for dead ones
PATIENT = {
    "RAY_health_check_failure_threshold": "60", "RAY_health_check_timeout_ms": "60000",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
}  # fmt: skip
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed (pip install 'hanok[ray]')"
)


def test_replicas_need_a_runtime(random_run: Path) -> None:
    with pytest.raises(ConfigError, match="2 replicas in one process; add --runtime ray"):
        serve(random_run, replicas=2)


def test_under_torchrun_one_process_says_no(random_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        ConfigError, match=r"Ray starts its replicas itself, and torchrun started 2 processes; start"
    ):
        serve(random_run, replicas=2, runtime="ray")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        serve(random_run, replicas=2, runtime="ray")
    assert ended.value.code == ConfigError.exit_code


def test_no_more_replicas_than_cores(random_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"1000 replicas on \d+ cores"):
        serve_replicas(random_run / "model", replicas=1000)


def test_without_ray_the_message_says_what_to_install(
    random_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray Serve, which is not installed.*pip install 'hanok\[ray\]'"):
        serve_replicas(random_run / "model", replicas=1)


def test_another_host_than_this_is_refused(random_run: Path) -> None:
    with pytest.raises(ConfigError, match="listens on this machine only"):
        replicas_module.serve_replicas(random_run / "model", replicas=1, host="0.0.0.0")


def test_an_adapter_may_not_be_called_like_the_model(random_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='the model is called "random" too'):
        serve_replicas(random_run / "model", replicas=1, options={"adapters": {"random": tmp_path}})


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_replicas_answer_as_one_engine_does(random_run: Path, tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hanok", "serve", str(random_run), "--runtime", "ray", "--replicas", "2",
               "--port", str(port), "--weights", "float32"]  # fmt: skip
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, stderr=errors, env={**os.environ, **PATIENT, "OMP_NUM_THREADS": "1"}
        )
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
    try:
        wait_for(http, process)
        name = http.get("/v1/models").json()["data"][0]["id"]
        questions = [f"question {number}" for number in range(12)]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda text: ask(http, name, text).json(), questions))
        assert [answer["choices"][0]["message"]["content"] for answer in answers] == alone(
            random_run / "model", questions
        )
        judged = {"request_id": answers[0]["id"], "rating": 1}
        given = [
            http.post("/v1/feedback", json=judged).status_code for _ in range(4)
        ]  # whichever replica is asked
        assert given == [201] * 4
        assert http.get("/").status_code == 200
        assert http.get("/", headers={"host": "elsewhere.example"}).status_code == 403
        assert ask(http, name, "x", max_tokens=0).status_code == 400
        reasons = stop_within_a_stream(http, name, process)
        assert "length" in reasons
        assert process.wait(120) == 0
    finally:
        http.close()
        process.kill()
        process.wait()
    assert "stopped" in (tmp_path / "errors").read_text()


def wait_for(http: httpx.Client, process: subprocess.Popen[bytes], seconds: float = 280.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail("the replicas did not come up")


def ask(http: httpx.Client, model: str, text: str, **changes: Any) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
    }
    return http.post("/v1/chat/completions", json={**body, **changes})


def alone(model_dir: Path, questions: list[str]) -> list[str]:
    from hanok.engine.api import Request, SamplingParams
    from hanok.engine.text import AnswerStream, chat_prompt

    engine = LocalEngine(model_dir, weights="float32")
    params = SamplingParams(temperature=0.0, max_tokens=12, decoding="fixed")
    prompts = [chat_prompt(engine.tokenizer, [{"role": "user", "content": text}]) for text in questions]
    completions = engine.generate(
        [Request(id=str(n), prompt_ids=ids, params=params) for n, ids in enumerate(prompts)]
    )
    engine.close()
    texts = []
    for completion in completions:
        answer = AnswerStream(engine.tokenizer)
        answer.push(completion.ids)
        answer.finish()
        texts.append(answer.content)
    return texts


def stop_within_a_stream(
    http: httpx.Client, model: str, process: subprocess.Popen[bytes]
) -> list[str | None]:
    """Ask the server to stop while an answer is under way, and read the answer to its end."""
    body = {"model": model, "messages": [{"role": "user", "content": "on"}], "stream": True, "ignore_eos": True,
            "max_tokens": 60}  # fmt: skip
    lines = []
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            lines.append(line)
            if len(lines) == 6:
                process.send_signal(signal.SIGTERM)
    return [
        json.loads(line[6:])["choices"][0]["finish_reason"] for line in lines if line.startswith("data: {")
    ]
