"""Requests that nobody would write, made from the service's own description of its routes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

PREFIXES = ("/v1/", "/tokenize", "/detokenize", "/health", "/admin/models", "/admin/adapters", "/examples")
HEAVY = ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses")
"""Their bodies take a quarter of a second each to be made up: schemas within schemas."""
CASES, HEAVY_CASES = 200, 20  # of a route
PATIENCE = 10.0  # seconds: the machine may be busy with other tests
JSON = {"Content-Type": "application/json"}


def check(response: httpx.Response) -> None:
    """Not a failure of the server; what is refused says so in an envelope."""
    text = response.text
    assert response.status_code < 500, text
    assert "Traceback" not in text
    assert 'File "' not in text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert isinstance(error["message"], str)
        assert isinstance(error["type"], str)


def operations(url: str) -> list[Any]:
    """Of all routes that are tried, in order."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return [one for one in found if one.path.startswith(PREFIXES)]


def cases(path: str, *, slow: bool = False) -> int:
    """How many a route has: `HANOK_FUZZ_CASES` says it of all."""
    few = path in HEAVY and not slow
    return int(os.environ.get("HANOK_FUZZ_CASES", HEAVY_CASES if few else CASES))


def tamed(body: Any, model: str, *, known: bool) -> Any:
    """The same body, for a model that is here, if `known`, and with a short answer: it is the reading that is tried."""
    if not isinstance(body, dict) or not known:
        return body
    short = {name: 2 for name in ("max_tokens", "max_completion_tokens", "max_output_tokens") if name in body}
    return {
        **body,
        "model": model,
        **({"max_tokens": 2} if "messages" in body or "prompt" in body else {}),
        **short,
    }


def fuzz(server: Any, http: httpx.Client, tried: Sequence[Any], *, slow: bool = False) -> None:
    for operation in tried:
        began, count = time.monotonic(), cases(operation.path, slow=slow)
        slowest = fuzz_one(operation, server, http, count)
        took = time.monotonic() - began
        print(f"{operation.label}: {count} cases in {took:.1f} s, the slowest answered after {slowest:.2f} s")


def fuzz_one(operation: Any, server: Any, http: httpx.Client, count: int) -> float:
    """Seconds of the slowest answer."""
    slowest = 0.0

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(), known=st.booleans())
    def run(case: Any, known: bool) -> None:
        nonlocal slowest
        request = case.as_transport_kwargs(base_url=server.url)
        if request.get("json") is not None:
            request["data"] = json.dumps(tamed(request["json"], server.model, known=known)).encode()
        given_headers = {
            name: value for name, value in (request.get("headers") or {}).items() if value.isascii()
        }
        began = time.monotonic()
        response = http.request(
            request["method"], request["url"], params=request.get("params"), content=request.get("data"),
            headers={**JSON, **given_headers}, files=request.get("files"),
        )  # fmt: skip
        check(response)
        slowest = max(slowest, time.monotonic() - began)

    run()
    return slowest
