"""Real servers on free ports: one of a random model, one of a model that was taught three conversations."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapted_models as adapted
import browser
import httpx
import openai
import pytest
import tiny_models as tiny
import torch
import uvicorn
import watched as watching

from hanok.artefacts import create_artefact, open_artefact, write_json
from hanok.engine.generator import LocalEngine
from hanok.models.checkpoint import load_model, save_model
from hanok.models.checkpoint.decoding import save_heads
from hanok.models.decoding import DecodingHeads
from hanok.server.admission.admission import Limited
from hanok.server.app import create_app, listen, services_of
from hanok.server.hosting import model_name
from hanok.store.database import Store, feedback_file
from hanok.tokens.tokenizer import Tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "hours",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]
CALL = {"id": "a", "type": "function", "function": {"name": "hours", "arguments": '{"place": "찻집"}'}}
GREETING = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "안녕하세요, 한옥이에요. 🏡"},
]
ERRAND = [
    {"role": "user", "content": "open?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "a", "content": "9-17"},
    {"role": "assistant", "content": "It opens at 9."},
]
MARKUP = [
    {"role": "user", "content": "tag"},
    {"role": "assistant", "content": "<img src=x onerror=window.hacked=1><b>굵게</b>"},
]
THOUGHT = [
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "Because.", "reasoning_content": "음, 왜냐면"},
]
BOTH = [
    {"role": "user", "content": "both?"},
    {"role": "assistant", "content": "Look:", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "hours", "arguments": '{"place": "찻집"}'}},
        {"id": "b", "type": "function", "function": {"name": "hours", "arguments": '{"place": "b"}'}},
    ]},
]  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A server under test, and what it runs on."""

    url: str
    model: str
    model_hash: str
    engine: LocalEngine
    store: Store
    openai: openai.OpenAI
    http: httpx.Client


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model says random bytes."""
    return _make_run(tmp_path_factory.mktemp("runs") / "random")


@pytest.fixture(scope="session")
def taught_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model greets, and calls its tool."""
    return _make_run(tmp_path_factory.mktemp("runs") / "taught", teach="taught")


@pytest.fixture(scope="session")
def adapters(random_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two of the random model."""
    model, folder = load_model(random_run / "model"), tmp_path_factory.mktemp("adapters")
    return {
        name: adapted.random_adapter(model, folder / name, seed=seed, rank=3 + seed)
        for seed, name in enumerate(("red", "blue"))
    }


@pytest.fixture(scope="session")
def server(random_run: Path) -> Iterator[Running]:
    with _serve(random_run / "model") as running:
        yield running


@pytest.fixture(scope="session")
def taught(taught_run: Path) -> Iterator[Running]:
    examples = {"ko": ["서점은 언제 여나요?"], "en": ["When does the bookshop open?"]}
    with _serve(taught_run / "model", examples=examples) as running:
        yield running


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a model that thinks before it says something, and calls two tools at once."""
    with _serve(_make_run(tmp_path_factory.mktemp("runs") / "thinker", teach="thinker") / "model") as running:
        yield running


@pytest.fixture(scope="session")
def serve_model() -> Any:
    """Serves a directory: a context manager."""
    return _serve


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """Makes a model directory: path and changes of its configuration."""
    return tiny.save_tiny_model


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that `transformers` loads as a Llama."""
    directory = tmp_path_factory.mktemp("llama") / "model"
    return tiny.save_tiny_model(directory, pattern=("gqa",), num_layers=2)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the random model with decoding heads."""
    with _serve(_make_run(tmp_path_factory.mktemp("runs") / "learned", heads=True) / "model") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the random model that knows two people, boss and yuna."""
    with _serve(_make_run(tmp_path_factory.mktemp("runs") / "guarded") / "model") as running:
        running.http.timeout = httpx.Timeout(60)
        boss = {"name": "boss", "password": "boss opens the gate"}
        assert running.http.post("/admin/users", json={**boss, "role": "administrator"}).status_code == 201
        signed = running.http.post("/session", json=boss).json()  # from here on everybody shows who they are
        running.http.headers.update({"x-hanok-csrf": signed["csrf"], "origin": running.url})
        yuna = {"name": "yuna", "password": "yuna opens the gate", "role": "user"}
        assert running.http.post("/admin/users", json=yuna).status_code == 201
        yield running


@pytest.fixture(scope="module")
def watched(random_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[watching.Watched]:
    """A server with a policy file, an audit, and people of two tenants, whose model says what a test wrote."""
    with watching.watched(random_run / "model", tmp_path_factory.mktemp("watched")) as running:
        yield running


def _make_run(run: Path, *, teach: str = "", heads: bool = False) -> Path:
    run.mkdir()
    write_json(run / "run.json", {"stages": {}})
    with create_artefact(run / "model", kind="model") as draft:
        tiny.save_tiny_model(draft.path)
        if teach:
            _teach(draft.path, LESSONS[teach])
        if heads:
            save_heads(DecodingHeads(tiny.tiny_config().hidden_size), draft.path, backbone="")
    return run


LESSONS: dict[str, list[tuple[Any, Any]]] = {
    "taught": [(GREETING, None), (MARKUP, None), (ERRAND, TOOLS)],
    "thinker": [(THOUGHT, None), (BOTH, TOOLS)],
}


def _teach(model_dir: Path, lessons: list[tuple[Any, Any]], *, steps: int = 50) -> None:
    """Learn the conversations by heart."""
    tokenizer, decoder = Tokenizer.load(model_dir), load_model(model_dir)
    chats = [tokenizer.encode_chat(messages, tools=tools) for messages, tools in lessons]
    ids = [[tokenizer.bos_id, *chat.ids] for chat in chats]
    ids_N = torch.tensor([token for one in ids for token in one[:-1]])
    targets_N = torch.tensor([token for one in ids for token in one[1:]])
    mask_N = torch.tensor([learnt for chat in chats for learnt in chat.loss_mask])
    bounds = torch.tensor([0, *itertools.accumulate(len(one) - 1 for one in ids)], dtype=torch.int32)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(steps):
        hidden_ND, _ = decoder(ids_N, bounds)
        loss = torch.nn.functional.cross_entropy(decoder.logits(hidden_ND[mask_N]), targets_N[mask_N])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    torch.set_num_threads(threads)
    save_model(decoder, model_dir)


@contextmanager
def _serve(model_dir: Path, *, weights: Any = "auto", **options: Any) -> Iterator[Running]:
    engine, artefact = LocalEngine(model_dir, weights=weights), open_artefact(model_dir)
    with Store(feedback_file(model_dir)) as store, listen("127.0.0.1", 0) as listener:
        name, url = model_name(model_dir), f"http://127.0.0.1:{listener.getsockname()[1]}"
        services = dataclasses.replace(services_of(engine, model_dir, store), **options)
        app = create_app(services)
        protocol = services.operations.guard.protocol()
        uvicorn_server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", log_level="warning"))
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
        thread.start()
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
            httpx.Client(base_url=url) as http,
        ):
            yield Running(url, name, artefact.hash, engine, store, client, http)
        uvicorn_server.should_exit = True
        thread.join()
        if isinstance(services.admission, Limited):
            services.admission.ledger.flush()
    engine.close()


@pytest.fixture
def errand_tools() -> list[dict[str, object]]:
    return TOOLS


@pytest.fixture(scope="session")
def page() -> Iterator[Any]:
    """A tab of a real browser."""
    command = browser.find_browser()
    if command is None:
        pytest.skip(f"no browser here: none of {', '.join(browser.NAMES)}")
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(browser.open_browser(command))
        except (AssertionError, OSError) as error:
            pytest.skip(f"{command} does not start ({error})")
        yield opened
