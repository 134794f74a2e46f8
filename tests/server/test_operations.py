"""What a running server tells about itself: health, metrics, status, request ids, log lines, traces."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import serving
from prometheus_client.parser import text_string_to_metric_families

from hanok.server.exchange import Exchange, Outcome
from hanok.server.operations.lifecycle import Lifecycle
from hanok.server.operations.logs import JsonLines, facts_of
from hanok.server.operations.requests import HttpRequest
from hanok.server.operations.status import STEP_SECONDS, STEPS, Status, quantiles
from hanok.server.operations.systemd import notify
from hanok.server.operations.traces import GENAI, SCHEMA, Traces, open_traces
from hanok.server.principal import LOCAL

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "operations.md"
SECRET = "the heron flies at dawn"


def chat(server: Any, **options: Any) -> Any:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": SECRET}],
        "max_tokens": 5,
        "store": False,
    }
    return server.http.post("/v1/chat/completions", json=body | options.pop("body", {}), **options)


def samples(server: Any) -> dict[tuple[str, ...], float]:
    text = server.http.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# ---- numbers --------------------------------------------------------------------------------------------------


def test_health(server: Any) -> None:
    assert server.http.get("/healthz").json() == {"status": "ok"}
    assert server.http.get("/readyz").json() == {"status": "ready"}


def test_metrics_count_what_was_asked(server: Any) -> None:
    before = samples(server)
    used = chat(server).json()["usage"]
    with server.http.stream("POST", "/v1/chat/completions", json={
        "model": server.model, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, "stream": True,
    }) as response:  # fmt: skip
        response.read()
    after = samples(server)

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert grown("hanok_tokens_total", "prompt", server.model) == 2 * used["prompt_tokens"]
    assert 0 < grown("hanok_tokens_total", "completion", server.model) <= 10
    for name in ("first_token", "request"):
        assert grown(f"hanok_{name}_seconds_count", "chat", server.model) == 2
    assert grown("hanok_http_requests_total", "/v1/chat/completions", "200", "POST") == 2
    assert grown("hanok_engine_generated_tokens_total", server.model) > 0


def test_labels_are_bounded_and_hold_no_text(server: Any) -> None:
    chat(server)
    for path in ("/nowhere/1", f"/nowhere/{SECRET}", "/v1/models/unknown"):
        server.http.get(path)
    server.http.request("BREW", "/v1/models")
    text = server.http.get("/metrics").text
    assert SECRET not in text
    assert "nowhere" not in text
    assert "BREW" not in text
    assert '"/v1/models/{model:path}"' in text


def shape(value: Any) -> Any:
    """Keys alone."""
    return {key: shape(one) for key, one in value.items()} if isinstance(value, dict) else None


def covers(found: Any, documented: Any, path: str = "") -> None:
    for key in documented or {}:
        assert key in found, f"{path}.{key} is in the guide, not in the answer"
        covers(found[key], documented[key], f"{path}.{key}")
    if documented:
        assert set(found) == set(documented), path


def test_status_is_as_the_guide_says(server: Any) -> None:
    chat(server)
    block = re.search(r"```json\n(\{\n  \"time\".*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    documented, report = json.loads(block[1]), server.http.get("/admin/status").json()
    covers(shape(report), shape(documented))
    for model, expected in zip(report["models"], documented["models"], strict=False):
        covers(shape(model), shape(expected), "models")
    assert report["state"] == "ready"
    assert report["totals"]["requests"] >= 1
    assert SECRET not in json.dumps(report)


def test_status_keeps_a_quarter_of_an_hour() -> None:
    now = 1000.0
    status = Status(clock=lambda: now)
    exchange = Exchange(
        id="a", route="chat", principal=LOCAL, model="m", model_hash="h", prompt_tokens=10, max_tokens=5
    )
    outcome = Outcome(
        reason="stop", completion_tokens=5, cached_tokens=0, first_token_seconds=0.5, seconds=1.3
    )
    for _ in range(2 * STEPS):
        status.ended(exchange, outcome)
        now += STEP_SECONDS
        status.tick(running=3, waiting=1, cache_used_share=0.25)
    report = status.report()
    assert len(report["series"]["requests"]) == STEPS
    assert report["series"]["completion_tokens"][-1] == 5
    assert report["rates"]["now"] == {
        "requests": 0.2, "errors": 0.0, "prompt_tokens": 2.0, "completion_tokens": 1.0
    }  # fmt: skip
    assert report["latency"]["1m"]["per_token"]["p50"] == pytest.approx(0.2)
    assert report["totals"]["requests"] == 2 * STEPS
    assert report["series"]["running"][0] == 3


def test_quantiles() -> None:
    assert quantiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert quantiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0}
    assert quantiles([]) == {"p50": None, "p95": None, "p99": None}


# ---- ids and lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc-1", "a" * 64, "0af7:651.9_1"])
def test_a_harmless_id_is_kept(server: Any, given: str) -> None:
    assert server.http.get("/v1/models", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, '"}', "<script>"])
def test_any_other_id_is_replaced(server: Any, given: str) -> None:
    answer = server.http.get("/v1/models", headers={"x-request-id": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_one_line_a_request_without_its_content(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hanok.access"):
        answer = chat(server, headers={"x-request-id": "line-1"})
        server.http.get("/healthz")
        server.http.get("/v1/models")
        assert serving.until(lambda: len(_access(caplog)) == 2, 20.0)  # a line is written behind its answer
    lines = [json.loads(JsonLines().format(record)) for record in _access(caplog)]
    assert [line["route"] for line in lines] == ["/v1/chat/completions", "/v1/models"]
    work = lines[0]["work"][0]
    assert lines[0]["request_id"] == "line-1"
    assert work["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert work["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert SECRET not in caplog.text


def _access(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "hanok.access"]


def test_json_lines_stay_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord(
            "hanok", logging.ERROR, "f", 1, "it\nfailed", (), (type(error), error, None)
        )
    text = JsonLines().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == "it\nfailed"


# ---- traces ---------------------------------------------------------------------------------------------------


def one_request(**changes: Any) -> HttpRequest:
    exchange = Exchange(
        id="chatcmpl-1",
        route="chat",
        principal=LOCAL,
        model="m",
        model_hash="h",
        prompt_tokens=10,
        max_tokens=5,
    )
    outcome = Outcome(
        reason="stop", completion_tokens=5, cached_tokens=2, first_token_seconds=0.5, seconds=1.3
    )
    fields = {
        "id": "r",
        "method": "POST",
        "path": "/x",
        "traceparent": "",
        "route": "/v1/chat/completions",
        "status": 200,
    }
    return HttpRequest(**(fields | changes), work=[(exchange, outcome)])  # type: ignore[arg-type]


def spans_of(request: HttpRequest, file: Path, **options: Any) -> list[dict[str, Any]]:
    traces = open_traces(str(file), **options)
    traces.finished(request)
    traces.close()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_spans_carry_the_names_of_the_conventions(tmp_path: Path) -> None:
    work, http = spans_of(one_request(), tmp_path / "spans")
    names = importlib.import_module("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for key, value in vars(names).items() if key.startswith("GEN_AI")}
    assert set(GENAI.values()) <= known
    assert set(work["attributes"]) <= known
    assert SCHEMA in {
        str(one.value) for one in importlib.import_module("opentelemetry.semconv.schemas").Schemas
    }
    assert work["attributes"]["gen_ai.usage.output_tokens"] == 5
    assert work["parent_id"] == http["context"]["span_id"]
    assert http["attributes"]["http.route"] == "/v1/chat/completions"


def test_the_callers_trace_goes_on(tmp_path: Path) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    *_, http = spans_of(one_request(traceparent=f"00-{trace}-{parent}-01"), tmp_path / "kept")
    assert http["context"]["trace_id"] == f"0x{trace}"
    assert http["parent_id"] == f"0x{parent}"
    assert spans_of(one_request(traceparent=f"00-{trace}-{parent}-00"), tmp_path / "dropped") == []
    assert len(spans_of(one_request(traceparent="00-junk"), tmp_path / "junk")) == 2
    assert spans_of(one_request(), tmp_path / "none", share=0.0) == []


def test_requests_without_work_are_no_spans() -> None:
    class Refuse:
        def export(self, spans: Any) -> None:
            raise AssertionError(spans)

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout: int = 0) -> bool:
            return True

    traces = Traces(Refuse())
    traces.finished(HttpRequest(id="r", method="GET", path="/", traceparent=""))
    traces.close()


# ---- the rest -------------------------------------------------------------------------------------------------


def test_draining_is_at_once_and_has_an_end() -> None:
    lifecycle = Lifecycle(grace=0.1)
    lifecycle.active = 1
    lifecycle.drain()
    assert lifecycle.state == "draining"
    assert not asyncio.run(lifecycle.drained())
    lifecycle.active = 0
    assert asyncio.run(lifecycle.drained())


def test_facts_name_who_asked_and_what_failed() -> None:
    facts = facts_of(one_request(principal=LOCAL, failure="OSError"))
    assert facts["principal"] == "local"
    assert facts["failure"] == "OSError"
    assert facts["work"][0]["reason"] == "stop"


def test_systemd_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")
