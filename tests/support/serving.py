"""A service in a thread of this process, with a random model of 60 thousand parameters, and clients that behave badly."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapted_models
import httpx
import tiny_models
import uvicorn
from fastapi import FastAPI
from slow_engine import slow_down

from hanok.engine.generator import LocalEngine
from hanok.models.checkpoint import load_model
from hanok.server.app import create_app, listen, run_server, services_of
from hanok.server.hosting import model_name
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.replacing import Replacing
from hanok.server.operations.service import Operations
from hanok.store.canaries import Canary
from hanok.store.database import Store, feedback_file

LLAMA = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
PATH = "/v1/chat/completions"
QUICK = {"header_seconds": 1.0, "body_seconds": 2.0, "write_seconds": 2.0}


def make_model(folder: Path, *, seed: int = 3) -> Path:
    return tiny_models.save_tiny_model(folder / "random" / "model", seed=seed, **LLAMA)


def make_adapters(model_dir: Path, folder: Path) -> dict[str, Path]:
    model = load_model(model_dir)
    return {
        name: adapted_models.random_adapter(model, folder / name, seed=seed)
        for seed, name in enumerate(("red", "blue"))
    }


@contextlib.contextmanager
def on_a_port(house: Any) -> Iterator[httpx.Client]:
    """A house of `tests/server/identity` behind a real socket."""
    with listen("127.0.0.1", 0) as listener:
        protocol = house.services.operations.guard.protocol()
        server = uvicorn.Server(
            uvicorn.Config(house.app, http=protocol, ws="none", log_level="warning", lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Service:
    url: str
    port: int
    model: str
    engine: LocalEngine
    store: Store
    operations: Operations
    http: httpx.Client

    def body(self, **changes: Any) -> dict[str, Any]:
        """Of a request that goes on until it is told to stop."""
        ends = {str(token): -100 for token in self.engine.tokenizer.stop_ids}
        asked = {"model": self.model, "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
        return {**asked, "max_tokens": 1500, "logit_bias": ends, "stream": True, **changes}

    def slow_down(self, seconds: float) -> Callable[[], None]:
        """Each token takes so much longer, until what is returned is called."""
        return slow_down(self.engine, seconds)

    def idle(self) -> bool:
        numbers = self.engine.metrics()
        return not (
            numbers.requests_running or numbers.requests_waiting or numbers.blocks_held or self.engine._open
        )


@contextlib.contextmanager
def service(
    model: Path, *, probation: float = 25.0, trial: Canary | None = None, **options: Any
) -> Iterator[Service]:
    """Args: options: of `ServeSettings`, or of the engine where they are its. probation: of a model that replaces one.
    trial: of the model that another server left running."""
    known = set(ServeSettings.__dataclass_fields__)
    operations = Operations(ServeSettings(**{k: v for k, v in options.items() if k in known}))
    operations.replacing = operations.trials._replacing = Replacing(
        operations.replacing._told, probation=probation
    )
    operations.observers = (*operations.observers[:-2], operations.replacing, operations.trials)
    held: dict[str, Any] = {}

    def start() -> FastAPI:
        store = held["store"] = Store(feedback_file(model))
        engine = held["engine"] = LocalEngine(model, **{k: v for k, v in options.items() if k not in known})
        services = services_of(engine, model, store, operations=operations)
        if trial is not None:
            operations.trials.resume(services.models.host(trial.model), trial)
        return create_app(services)

    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=run_server, args=(operations, listener, start))
        thread.start()
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
                until(lambda: "engine" in held and http.get("/readyz").status_code == 200, 60)
                yield Service(url, port, model_name(model), held["engine"], held["store"], operations, http)
        finally:
            operations.lifecycle.grace = 0.0
            operations.lifecycle.drain()
            thread.join()
            held["engine"].close()
            held["store"].close()


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to hold in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return holds()


def events(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def ended_properly(lines: list[str]) -> bool:
    """[DONE] at the end, and before it a finish reason or an error."""
    found = [line for line in lines if line]
    if not found or found[-1] != "data: [DONE]":
        return False
    last = events(found)[-1]
    return "error" in last or any(choice["finish_reason"] for choice in last["choices"])


def read_stream(service: Service, began: threading.Semaphore | None = None, **changes: Any) -> list[str]:
    """The lines that came, however it ended."""
    lines: list[str] = []
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http,
        http.stream("POST", PATH, json=service.body(**changes)) as response,
    ):
        for line in response.iter_lines():
            lines.append(line)
            if began is not None and len(lines) == 5:
                began.release()
    return lines


def connect(service: Service, *, receive: int = 0) -> socket.socket:
    client = socket.socket()
    if receive:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    client.connect(("127.0.0.1", service.port))
    client.settimeout(20)
    return client


def raw(service: Service, **changes: Any) -> bytes:
    """A whole request."""
    body = json.dumps(service.body(**changes)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def closed(client: socket.socket) -> bool:
    """Whether the other side has ended it; what came is thrown away."""
    client.setblocking(False)
    try:
        while client.recv(1 << 16):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            client.setblocking(True)
