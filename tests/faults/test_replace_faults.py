"""Another model while requests run (F22 in docs/reliability.md).

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
import torch

from hanok.kernels.native import native_available
from hanok.models.checkpoint import load_model, save_model

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not native_available(), reason="the cache's blocks are native"),
]


# ---- F22: another model while requests run ------------------------------------------------------------------------


def replace_model(service: Any, directory: Path) -> httpx.Response:
    return service.http.post(f"/admin/models/{service.model}/replace", json={"directory": str(directory)})


def under_load(service: Any, crowd: Any, end: threading.Event) -> list[Any]:
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


def answer(service: Any) -> dict[str, Any]:
    done = service.http.post(serving.PATH, json=service.body(stream=False, max_tokens=20))
    assert done.status_code == 200
    return done.json()


def test_f22_a_model_is_replaced_under_load(
    served_model: Path, tmp_path: Path, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    other = serving.make_model(tmp_path, seed=4)
    with serving.service(served_model, probation=1.0) as service:
        before, old, end = answer(service), service.engine, threading.Event()
        seen = under_load(service, crowd, end)
        assert serving.until(lambda: len(seen) > 6, 30)
        replaced = replace_model(service, other)
        assert replaced.status_code == 200, replaced.text
        after = answer(service)
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
        assert answer(fresh)["choices"] == after["choices"]


def spoil(model: Path, name: str) -> Path:
    """A model whose head or embedding of one token holds what is no number when it is multiplied."""
    decoder = load_model(model)
    with torch.no_grad():
        weight = dict(decoder.named_parameters())[name]
        weight.mul_(3e38)
    save_model(decoder, model)
    return model


def test_f22_a_model_without_finite_numbers_is_never_used(served_model: Path, tmp_path: Path) -> None:
    bad = spoil(serving.make_model(tmp_path, seed=5), "norm.weight")
    with serving.service(served_model) as service:
        before = answer(service)["choices"]
        began = time.monotonic()
        refused = replace_model(service, bad)
        assert refused.status_code == 400
        assert "the old one goes on" in refused.json()["error"]["message"]
        assert time.monotonic() - began < 30
        assert answer(service)["choices"] == before
        assert replace_model(service, tmp_path / "nowhere").status_code == 400
        assert service.http.get("/readyz").status_code == 200


def test_f22_a_model_that_fails_later_is_taken_back(
    served_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of trying out: without it the bad one is used, and its failures take it back."""
    bad = spoil(serving.make_model(tmp_path, seed=5), "norm.weight")
    monkeypatch.setattr("hanok.server.operations.replacing.try_out", lambda _engine: None)
    with serving.service(served_model) as service:
        before = answer(service)["choices"]
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
        assert answer(service)["choices"] == before
        errors = service.http.get("/admin/status").json()["errors"]
        assert any(one["what"] == "model taken back" for one in errors)
