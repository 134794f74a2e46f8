"""A client that goes away ends what it asked for, on every route, streamed or not; and its hold on the model."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from slow_engine import slow_down

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "ignore_eos": True},
    "/v1/completions": {"prompt": ["x", "y"], "max_tokens": 2000, "ignore_eos": True, "n": 2},
    "/v1/responses": {"input": "x", "store": False},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2000},
}


UNENDING = [
    path for path in BODIES if "ignore_eos" in BODIES[path]
]  # whoever waits for the others may get a short answer


@pytest.mark.parametrize(
    ("path", "stream"), [*((path, True) for path in BODIES), *((path, False) for path in UNENDING)]
)
def test_whoever_goes_away_is_not_answered(
    server: Any, path: str, stream: bool, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(slow_down(server.engine, 0.002))
    began = server.engine.metrics().generated_tokens
    body = {"model": server.model, **BODIES[path], "stream": stream}
    if stream:
        with httpx.stream("POST", server.url + path, json=body, timeout=30) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + path, json=body, timeout=httpx.Timeout(30, read=0.05))
    until = time.monotonic() + 20
    while server.engine.metrics().requests_running and time.monotonic() < until:
        time.sleep(0.01)
    assert server.engine.metrics().requests_running == 0
    assert server.engine.metrics().generated_tokens - began < 1500  # of 2,000 and more
