"""The HTTP server: OpenAI's chat API under /v1, feedback, health, and the chat page on /."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from hanok.artefacts import open_artefact
from hanok.artefacts.signing import Trusted
from hanok.documents.library import Library
from hanok.documents.records import SPELLING
from hanok.engine.backend import Weights
from hanok.engine.coverage import CacheKind
from hanok.engine.generator import LocalEngine
from hanok.engine.parallel.team import Team, refuse_in_team
from hanok.engine.speculation.build import Speculation
from hanok.errors import ConfigError, SignatureError
from hanok.guard.rulebook import Guard
from hanok.reporting import log
from hanok.server.admission.admission import Limited
from hanok.server.admission.ledger import Ledger
from hanok.server.admission.prices import prices_in
from hanok.server.admission.queue import PromptQueue
from hanok.server.auditing.models import tell_refusal
from hanok.server.auditing.open import audited, end_audit, open_audit, policy_facts, settings_facts
from hanok.server.auditing.trail import Trail
from hanok.server.bodies import Bodies
from hanok.server.body_route import Straight
from hanok.server.canary.trial import standing, standing_directory
from hanok.server.document_vectors import ModelEmbedding
from hanok.server.errors import install_handlers
from hanok.server.examples import example_questions
from hanok.server.exchange import Admission
from hanok.server.hosting import Hosted, ModelSpec, model_name, parse_aliases
from hanok.server.hosts import SafeHeaders
from hanok.server.identity.directory import Directory, Entry
from hanok.server.identity.middleware import Identify, authorise
from hanok.server.identity.people import People, open_people
from hanok.server.identity.provider import Provider
from hanok.server.models import Models, check_names
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.requests import Follow
from hanok.server.operations.server import FLUSH_SECONDS, Gate, Server, allow_descriptors, refuse
from hanok.server.operations.service import Operations
from hanok.server.operations.timeouts import SEND_BYTES
from hanok.server.operations.traces import open_traces
from hanok.server.protection.caps import Caps
from hanok.server.protection.monitor import Monitor
from hanok.server.protection.watermarks import watermarks_of
from hanok.server.reviewing.flags import FlagQueue
from hanok.server.routes import ROUTERS
from hanok.server.services import Services
from hanok.store.audit.known import record_place
from hanok.store.canaries import Canaries
from hanok.store.connection import Place
from hanok.store.database import Store, feedback_file, run_folder

if TYPE_CHECKING:
    from hanok.server.identity.oidc import Oidc

SWITCH_SECONDS = 0.0005  # that the event loop waits for the interpreter when the engine's thread has it, and the other way round
THREADS = 64  # for what would block the event loop: so many that some slow jobs do not keep everybody out
WEB = Path(__file__).with_name("web")


def serve(
    model_dir: Path, *, host: str = "127.0.0.1", port: int = 8080, store: Place | None = None, weights: Weights = "auto",
    cache_bytes: int | None = None, cache_type: CacheKind = "bf16", speculation: Speculation = "auto",
    draft_dir: Path | None = None, adapters: Mapping[str, Path] = {}, team: Team | None = None,
    entry: Entry | None = None, settings: ServeSettings | None = None, source: Callable[[], ServeSettings] | None = None,
    name: str | None = None, more: Sequence[ModelSpec] = (), device: str = "cpu",
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; running answers may finish.

    Args:
        port: 0 picks a free one. store: the database, a file or a URL; by default in the run that the model belongs to.
        weights, cache_bytes, cache_type, speculation, draft_dir, adapters, team, device: as `LocalEngine` takes them.
        entry: who may come in.
        settings: of the operation; the model and what runs it are said by the other arguments.
        source: the settings anew, when they are to be read again.
        name: of the model in the API; by default after its run or directory.
        more: models that are loaded when somebody asks for them.

    Raises:
        ConfigError: no keys and not a loopback address, the port is taken, or an adapter is called like the model.
    """
    check_names(model_dir, adapters)
    settings = settings or ServeSettings()
    guard = Guard.open(settings.guard)  # before a model is loaded for nothing
    traces = open_traces(settings.traces, share=settings.trace_share) if settings.traces else None
    operations = Operations(settings, source=source, traces=traces)
    with ExitStack() as held:
        place = store or feedback_file(model_dir)
        kept = held.enter_context(Store(place))
        trial = standing(Canaries(kept), model_dir)
        if trial is not None:
            refuse_in_team(team, f"{trial.canary_directory} is served in place of {model_dir}, or tried out,")
            name, model_dir = trial.model, standing_directory(trial)
        people = open_people(kept, host=host, entry=entry)
        people.directory.trail.log = open_audit(settings, place)
        held.callback(lambda: end_audit(people.directory.trail))
        begun_log = people.directory.trail.server_log
        record_place(kept, None if begun_log is None else begun_log.place)  # commands write there too
        admission = limited(people)
        held.callback(admission.ledger.flush)
        listener = held.enter_context(listen(host, port))
        url = f"{'https' if settings.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        def start() -> FastAPI:
            gc.freeze()  # what was imported stays: no collection during an answer looks through it again
            gc.set_threshold(10_000, *gc.get_threshold()[1:])  # a request makes some thousands of objects
            sys.setswitchinterval(SWITCH_SECONDS)
            options = {
                "weights": weights, "cache_bytes": cache_bytes, "cache_type": cache_type, "speculation": speculation,
                "draft_dir": draft_dir, "max_waiting": people.directory.entry.max_queue, "team": team,
                "device": device,
            }  # fmt: skip
            with ExitStack() as opened:
                spec = first_spec(model_dir, options, adapters, settings)
                signed_by = check_first(people.directory.trail, spec)
                engine = spec.open()
                opened.callback(engine.close)
                services = services_of(
                    engine, model_dir, kept, operations=operations, people=people, admission=admission, name=name, more=more,
                    options=options, adapters=adapters, guard=guard, signed_by=signed_by,
                )  # fmt: skip
                opened.pop_all()  # from here on the models close theirs: another may take this one's place
            held.callback(services.models.close)
            if trial is not None and trial.state == "running":
                operations.trials.resume(services.models.host(trial.model), trial)
            app = create_app(services)
            model_hash = services.models.hash_of(services.models.default_name)
            begun = settings_facts(settings, model_dir, model_hash, guard) | {"signed_by": signed_by}
            people.directory.trail.sure("server.start", actor="server", facts=begun)
            if people.setup_token is not None:
                print(f"setup token: {people.setup_token}", file=sys.stderr)
            _say(
                settings, {"chat page": url, "OpenAI-compatible API": f"{url}/v1", "feedback": str(kept.name)}
            )
            return app

        run_server(operations, listener, start, team)


def services_of(
    engine: LocalEngine, model_dir: Path, store: Store, *, operations: Operations | None = None, people: People | None = None,
    admission: Admission | None = None, name: str | None = None, more: Sequence[ModelSpec] = (),
    options: Mapping[str, Any] = {}, adapters: Mapping[str, Path] = {}, guard: Guard | None = None,
    signed_by: str | None = None,
) -> Services:  # fmt: skip
    """Args: options, adapters: of the engine, for one that replaces it. guard: read anew with the settings; by default none.
    signed_by: the id of the key that has signed what the engine was made from.

    Raises:
        ConfigError: a name twice, or a model that the memory for them is too small for.
    """
    operations, people = operations or Operations(), people or People(Directory(store))
    settings, admission = operations.settings, admission or limited(people)
    if isinstance(admission, Limited):
        operations.on_reload.append(partial(_take_prices, operations, admission))
    if guard is None:
        guard = Guard()
    else:
        operations.on_reload.append(partial(_take_policy, guard))
    operations.in_force = partial(policy_facts, guard)
    watermarks = watermarks_of(store, guard, people.directory)
    operations.on_reload.append(lambda _new: watermarks.take_up_or_say)
    spec = first_spec(model_dir, options, adapters, settings, name=name)
    first = Hosted(spec, engine, open_artefact(model_dir).hash, signed_by)
    further = [Hosted(replace(one, trusted=spec.trusted)) for one in more]
    models = Models.of(
        [first, *further], most_loaded=settings.most_loaded,
        memory=settings.models_mib and settings.models_mib << 20, keep_alive=settings.unload_seconds,
    )  # fmt: skip
    models.refused = partial(tell_refusal, people.directory.trail, actor="server")
    _take_aliases(models, settings)()
    operations.on_reload.append(partial(_take_aliases, models))
    operations.trials.table = Canaries(store)
    flags = FlagQueue(store, lambda: operations.settings.review_flags, lambda: operations.settings.reviewers)
    operations.at_end.append(flags.flush)
    return Services(
        verdicts=[flags.tell],
        models=models,
        store=store,
        documents=Library(
            store, embedding=ModelEmbedding(models) if settings.document_vectors == "model" else SPELLING
        ),
        directory=people.directory,
        people=people,
        oidc=None if people.directory.entry.provider is None else _through(people.directory.entry.provider),
        admission=admission,
        queue=PromptQueue(people.directory.entry.max_queue_tokens),
        examples=example_questions(model_dir),
        run=run_folder(model_dir),
        operations=operations,
        guard=guard,
        watermarks=watermarks,
        caps=Caps(
            guard.protection_of, lambda facts: people.directory.trail.tell("logprobs.refused", facts=facts)
        ),
        monitor=Monitor(
            store, guard, people.directory.trail, reviewers=lambda: operations.settings.reviewers
        ),
    )


def _take_aliases(models: Models, settings: ServeSettings) -> Callable[[], None]:
    """Raises ConfigError for names that cannot be used."""
    aliases = parse_aliases(settings.alias)
    models.check_aliases(aliases)
    return partial(models.take_aliases, aliases)


def first_spec(
    model_dir: Path, options: Mapping[str, Any], adapters: Mapping[str, Path], settings: ServeSettings, *,
    name: str | None = None,
) -> ModelSpec:  # fmt: skip
    """Of the model that is loaded from the start. Args: name: by default after its run or directory."""
    return ModelSpec(
        name=name or model_name(model_dir), directory=model_dir, options=options, adapters=adapters,
        trusted=Trusted.of(settings.require_signature),
    )  # fmt: skip


def check_first(trail: Trail, spec: ModelSpec) -> str | None:
    """Before it is loaded: the id of the key that has signed it. Raises SignatureError, which is an entry of the audit too."""
    try:
        return spec.check()
    except SignatureError as error:
        tell_refusal(trail, spec.name, error, actor="server")
        raise


def _through(provider: Provider) -> Oidc:
    from hanok.server.identity.oidc import Oidc  # loads signatures and an HTTP client, which few servers need

    return Oidc(provider)


def _take_policy(guard: Guard, settings: ServeSettings) -> Callable[[], None]:
    """Raises ConfigError for a policy that cannot be used."""
    new = Guard.open(settings.guard)

    def put_in_force() -> None:
        if guard.take(new):
            log.info("guard: %s is in force", guard.policy.source)

    return put_in_force


def limited(people: People) -> Limited:
    """Limits and accounts in the store that the people are in."""
    directory = people.directory
    return Limited(Ledger(directory.access.store, also=directory.flush), directory.entry.prices)


def _take_prices(operations: Operations, admission: Limited, new: ServeSettings) -> Callable[[], None] | None:
    """Raises ConfigError for a file that cannot be used."""
    if new.prices is None and operations.settings.prices is None:
        return None
    return partial(setattr, admission, "prices", prices_in(new.prices))


def create_app(services: Services) -> FastAPI:
    operations = services.operations
    operations.watch(services.models)
    services = replace(services, observers=(*services.observers, *operations.observers))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(THREADS, thread_name_prefix="hanok-work")
        )
        services.models.begin()
        async with operations.running():
            yield
        if services.monitor is not None:
            await asyncio.to_thread(services.monitor.flush)
        for finish in operations.at_last:
            await finish()

    app = FastAPI(
        title="Hanok", docs_url=None, redoc_url=None, lifespan=lifespan, dependencies=[Depends(authorise)],
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours hold no content (`operations/traces.py`)
    )  # fmt: skip
    install_handlers(app)
    app.add_middleware(Bodies, limit=operations.body_limit)
    app.add_middleware(Identify, directory=services.directory)
    app.add_middleware(SafeHeaders)  # the last is the outermost
    routers = [router(services) for router in ROUTERS]
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]  # what an error may name
    app.state.paths = frozenset(getattr(route, "path", "") for router in routers for route in router.routes)
    app.mount("/", StaticFiles(directory=WEB, html=True))
    app.router.middleware_stack = Straight(app.router.middleware_stack, app.state.routes)
    # around everything, errors that nobody foresaw too
    inside, watchers = audited(app.build_middleware_stack(), services)
    app.middleware_stack = Follow(inside, operations.lifecycle, (*operations.watchers, *watchers), refuse)
    return app


def listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol by name: without it asyncio leaves Nagle's algorithm on, and each event of a stream waits for a client's ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # of every connection
    try:
        listener.bind((host, port))
        listener.listen(1024)  # those who come before the server is up wait
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror})", remedy="choose another port with --port"
        ) from error
    return listener


def run_server(
    operations: Operations, listener: socket.socket, start: Callable[[], FastAPI], team: Team | None = None
) -> None:
    """Until a signal, or until the team breaks.

    Args:
        start: makes the application; called in a thread, while the server answers that it is loading.

    Raises:
        what `start` raises.
    """
    settings, gate, guard = operations.settings, Gate(), operations.guard
    allow_descriptors(settings.max_connections)
    operations.lifecycle.load()
    config = uvicorn.Config(
        gate, log_level="warning", log_config=None, access_log=False, http=guard.protocol(), ws="none", lifespan="off",
        loop="auto",  # uvloop, where there is one
        proxy_headers=False,  # uvicorn would believe them of whoever sits at this machine; `identity/proxies.py` reads them
        timeout_keep_alive=settings.keep_alive_seconds, timeout_graceful_shutdown=int(FLUSH_SECONDS),
        server_header=False, backlog=1024,
        ssl_certfile=settings.tls_cert, ssl_keyfile=settings.tls_key,
    )  # fmt: skip
    server = Server(
        config, gate, lifecycle=operations.lifecycle, guard=guard, start=start, interrupt=operations.interrupt,
        reload=operations.reload_if_possible,
    )  # fmt: skip
    operations.connections = lambda: len(server.server_state.connections)
    if team is not None:
        team.on_break = lambda: setattr(server, "should_exit", True)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure
    log.info("stopped")


def _say(settings: ServeSettings, facts: Mapping[str, str]) -> None:
    """Where to find it: for people as plain lines, else as a log line."""
    if settings.log_format == "json":
        log.info(
            "serving",
            extra={"facts": {name.replace(" ", "_").lower(): value for name, value in facts.items()}},
        )
        return
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), file=sys.stderr, flush=True)
