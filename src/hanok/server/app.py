"""The HTTP server: OpenAI's chat API under /v1, feedback, health, and the chat page on /."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from hanok.artefacts import open_artefact
from hanok.engine.backend import Weights
from hanok.engine.coverage import CacheKind
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel.team import Team
from hanok.engine.speculation.build import Speculation
from hanok.errors import ConfigError
from hanok.reporting import log
from hanok.server.bodies import Bodies
from hanok.server.errors import install_handlers
from hanok.server.examples import example_questions
from hanok.server.hosts import LoopbackOnly, SafeHeaders, check_host
from hanok.server.models import Models, check_names, model_name
from hanok.server.principal import Identify
from hanok.server.routes import ROUTERS
from hanok.server.services import Services
from hanok.server.streams import DRAIN_SECONDS
from hanok.store.connection import Place
from hanok.store.database import Store, feedback_file

MAX_WAITING = 512  # requests; more are told to come back
WEB = Path(__file__).with_name("web")


def serve(
    model_dir: Path, *, host: str = "127.0.0.1", port: int = 8080, store: Place | None = None, weights: Weights = "auto",
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
            app = create_app(services_of(engine, model_dir, kept))
            address = f"[{host}]" if ":" in host else host
            url = f"http://{address}:{listener.getsockname()[1]}"
            print(
                f"chat page: {url}\nOpenAI-compatible API: {url}/v1\nfeedback: {kept.name}",
                file=sys.stderr,
                flush=True,
            )
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS + 5)
            _run(uvicorn.Server(config), listener, team)


def services_of(engine: LocalEngine, model_dir: Path, store: Store) -> Services:
    return Services(
        models=Models(engine, name=model_name(model_dir), model_hash=open_artefact(model_dir).hash),
        store=store,
        examples=example_questions(model_dir),
    )


def create_app(services: Services) -> FastAPI:
    app = FastAPI(title="Hanok", docs_url=None, redoc_url=None)
    install_handlers(app)
    for middleware in (Bodies, Identify, SafeHeaders, LoopbackOnly):  # the last is the outermost
        app.add_middleware(middleware)
    for router in ROUTERS:
        app.include_router(router(services))
    app.mount("/", StaticFiles(directory=WEB, html=True))
    return app


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
