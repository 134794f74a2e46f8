"""The HTTP server: OpenAI's chat API under /v1, feedback, health, and the chat page on /."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from sse_starlette import EventSourceResponse

from hanok.artefacts import open_artefact
from hanok.engine.adapters import Adapter
from hanok.engine.backend import Weights
from hanok.engine.coverage import CacheKind
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel.team import Team
from hanok.engine.speculation.build import Speculation
from hanok.errors import ConfigError
from hanok.reporting import log
from hanok.server.chat import Chat, Message
from hanok.server.errors import ApiError, install_handlers
from hanok.server.examples import example_questions
from hanok.server.hosts import LoopbackOnly, SafeHeaders, check_host
from hanok.server.schema import ChatRequest, FeedbackRequest
from hanok.store.database import Answered, Feedback, Store, feedback_file, run_folder

MAX_WAITING = 512  # requests; more are told to come back
DRAIN_SECONDS = 20  # how long running answers may go on after SIGTERM
WEB = Path(__file__).with_name("web")
T = TypeVar("T")


def serve(
    model_dir: Path, *, host: str = "127.0.0.1", port: int = 8080, store: Path | None = None, weights: Weights = "auto",
    cache_bytes: int | None = None, cache_type: CacheKind = "bf16", speculation: Speculation = "auto",
    draft_dir: Path | None = None, adapters: Mapping[str, Path] = {}, team: Team | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; running answers may finish.

    Args:
        port: 0 picks a free one. store: the feedback database; by default in the run that the model belongs to.
        weights, cache_bytes, cache_type, speculation, draft_dir, adapters, team: as `LocalEngine` takes them.

    Raises:
        ConfigError: not a loopback address, the port is taken, or an adapter is called like the model.
    """
    check_host(host)
    check_names(model_dir, adapters)
    listener = listen(host, port)
    with listener, Store(store or feedback_file(model_dir)) as kept:
        engine = LocalEngine(
            model_dir,
            weights=weights,
            cache_bytes=cache_bytes,
            cache_type=cache_type,
            speculation=speculation,
            draft_dir=draft_dir,
            max_waiting=MAX_WAITING,
            adapters=adapters,
            team=team,
        )
        with closing(engine):
            app = create_app(
                engine, name=model_name(model_dir), model_hash=open_artefact(model_dir).hash, store=kept,
                examples=example_questions(model_dir),
            )  # fmt: skip
            address = f"[{host}]" if ":" in host else host
            url = f"http://{address}:{listener.getsockname()[1]}"
            print(
                f"chat page: {url}\nOpenAI-compatible API: {url}/v1\nfeedback: {kept.path}",
                file=sys.stderr,
                flush=True,
            )
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS + 5)
            _run(uvicorn.Server(config), listener, team)


def create_app(
    engine: LocalEngine, *, name: str, model_hash: str, store: Store, examples: Mapping[str, Sequence[str]] = {},
) -> FastAPI:  # fmt: skip
    """The application.

    Args:
        name: of the model in the API; the engine's adapters are models too, under their names. store: for answers and feedback.
        examples: language to questions that the empty page offers.
    """
    app = FastAPI(title="Hanok", docs_url=None, redoc_url=None)
    install_handlers(app)
    app.add_middleware(SafeHeaders)
    app.add_middleware(LoopbackOnly)
    started = int(time.time())

    async def keep(chat: Chat, answers: list[Message]) -> None:
        if chat.body.store is not False:
            answered = Answered(
                request_id=chat.id,
                model_hash=answerer_hash(model_hash, chat.adapter),
                messages=chat.messages,
                answers=answers,
                tools=chat.tools,
            )
            await asyncio.to_thread(store.record_request, answered)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": name, "model_hash": model_hash}

    @app.get("/examples.json")
    async def example_list() -> Mapping[str, Sequence[str]]:
        return examples

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        adapters = [one for one in engine.adapters if one != name]
        return {"object": "list", "data": [_model(one, name, started, engine) for one in (name, *adapters)]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        _adapter_of(model, name, engine)
        return _model(model, name, started, engine)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        adapter = _adapter_of(body.model, name, engine)
        chat = await asyncio.to_thread(Chat, engine, body, model=body.model, adapter=adapter, answered=keep)
        if body.stream:
            return EventSourceResponse(chat.events(), sep="\n", shutdown_grace_period=DRAIN_SECONDS)
        done = await _unless_disconnected(request, chat.complete())
        return JSONResponse(done) if done is not None else Response(status_code=499)

    @app.post("/v1/feedback", status_code=201)
    async def feedback(body: FeedbackRequest) -> dict[str, str]:
        identifier = await asyncio.to_thread(_add_feedback, store, body)
        return {"id": identifier, "object": "feedback"}

    app.mount("/", StaticFiles(directory=WEB, html=True))
    return app


def model_name(model_dir: Path) -> str:
    """The run and what lies between it and the model: `runs/village/improve-001/model` is village-improve-001."""
    path = model_dir.absolute()
    run = run_folder(path)
    if run is not None:
        parts = (run.name, *path.relative_to(run).parts)
    else:
        parts = path.parts[-2:] if path.name == "model" else (path.name,)
    return "-".join(part for part in parts if part != "model")


def answerer_hash(model_hash: str, adapter: Adapter | None) -> str:
    """Whose answer it is: the model's own hash, or one of the model and the adapter's content."""
    return (
        model_hash if adapter is None else hashlib.sha256(f"{model_hash} {adapter.hash}".encode()).hexdigest()
    )


def check_names(model_dir: Path, adapters: Mapping[str, Path]) -> None:
    """Raises ConfigError if an adapter is called like the model."""
    if model_name(model_dir) in adapters:
        raise ConfigError(
            f'the model is called "{model_name(model_dir)}" too', remedy="give the adapter another name"
        )


def _model(model: str, name: str, created: int, engine: LocalEngine) -> dict[str, Any]:
    """`parent`: of an adapter, the model that it belongs to."""
    return {
        "id": model, "object": "model", "created": created, "owned_by": "hanok", "context_length": engine.max_context,
        **({} if model == name else {"parent": name}),
    }  # fmt: skip


def _adapter_of(asked: str, name: str, engine: LocalEngine) -> Adapter | None:
    """None for the model itself."""
    if asked == name:
        return None
    adapters = engine.adapters
    if asked not in adapters:
        served = ", ".join(f'"{one}"' for one in (name, *adapters))
        raise ApiError(
            404,
            f'no model "{asked}" here; this server serves {served}',
            param="model",
            code="model_not_found",
        )
    return adapters[asked]


def _add_feedback(store: Store, body: FeedbackRequest) -> str:
    answered = store.find_request(body.request_id)
    if answered is None:
        raise ApiError(
            404, f'no request "{body.request_id}" was answered here', param="request_id", code="not_found"
        )
    if body.choice >= len(answered.answers):
        raise ApiError(400, f"choice = {body.choice} of {len(answered.answers)} answers", param="choice")
    return store.add_feedback(
        Feedback(
            request_id=answered.request_id, model_hash=answered.model_hash, tools=answered.tools,
            messages=[*answered.messages, answered.answers[body.choice]],
            rating=body.rating, correction=body.correction, reason=body.reason, user=body.user,
        )
    )  # fmt: skip


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result, or None (and the work cancelled) if the client goes away first."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        await _stop(task, watch)


async def _stop(*tasks: Awaitable[Any]) -> None:
    for task in tasks:
        if isinstance(task, asyncio.Future):
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # those who come before the server is up wait
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror})", remedy="choose another port with --port"
        ) from error
    return listener


def _run(server: uvicorn.Server, listener: socket.socket, team: Team | None) -> None:
    """Until a signal, or until the team breaks.

    uvicorn raises the signal that stopped it once more at the end; stopping on request is no failure.
    """
    previous = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    if team is not None:
        team.on_break = lambda: setattr(server, "should_exit", True)
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    log.info("stopped")
