"""Several engines behind one address: replicas of the server, each a process of its own with the whole model, under Ray Serve.

Ray starts them, sends each request to the one of two that has less to do, and starts another where one has died. What a
replica answers is what `hanok.server.app` answers; they share the database of feedback, so a judgement may reach another replica
than the one that answered.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError
from hanok.guard.rulebook import Guard
from hanok.reporting import log
from hanok.server.app import check_first, create_app, listen, services_of
from hanok.server.auditing.trail import Trail
from hanok.server.identity.directory import Entry
from hanok.server.identity.people import open_people
from hanok.server.models import check_names
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.server.streams import DRAIN_SECONDS
from hanok.store.connection import Place
from hanok.store.database import Store, feedback_file

_NAME = "hanok"
MAX_WAITING = 512  # requests in a replica; more are told to come back
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
_RUNNING = 128  # answers that decode together in a replica, as `LocalEngine` has it


def serve_replicas(
    model_dir: Path, *, replicas: int, host: str = "127.0.0.1", port: int = 8080, store: Place | None = None,
    entry: Entry | None = None, options: Mapping[str, Any] = {}, guard: str = "default", keys: Sequence[Path] = (),
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; running answers may finish.

    Args:
        replicas: how many; each gets its part of this machine's cores.
        port: 0 picks a free one. store: as `hanok.server.app.serve` takes it.
        entry: who may come in. options: for each replica's `LocalEngine`. guard: the policy, as `Guard.open` takes it.
        keys: files of public keys, one of which must have signed what is loaded.

    Raises:
        ConfigError: Ray is not installed; not a loopback address; the port is taken; more replicas than cores; an adapter
            is called like the model. SignatureError: not what one of the keys has signed.
    """
    if entry is not None and entry.setup:
        raise ConfigError(
            "--setup with replicas", remedy="make the first administrator with `hanok users create`"
        )
    check_names(model_dir, options.get("adapters", {}))
    Guard.open(guard)  # here its error is clearer
    settings = ServeSettings(require_signature=tuple(file.absolute() for file in keys))
    check_first(Trail(), model_dir, options, options.get("adapters", {}), settings)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= replicas <= cores:
        raise ConfigError(f"{replicas} replicas on {cores} cores", remedy=f"take 1 to {cores}")
    place = store or feedback_file(model_dir)
    with Store(place) as kept:  # its tables exist before two want to make them
        name = kept.name
        open_people(kept, host=host, entry=entry)
    ray, serve = _load_ray()
    with listen(host, port) as listener:  # Ray binds it itself, and says less clearly that it is taken
        port = listener.getsockname()[1]
    logging.getLogger("ray").setLevel(logging.WARNING)
    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level="warning")
    stopped = threading.Event()
    previous = {n: signal.signal(n, lambda *_: stopped.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config=_QUIET)
        serve.run(
            deployment(
                serve,
                model_dir,
                place,
                replicas,
                cores // replicas,
                options,
                host=host,
                entry=entry,
                guard=guard,
                settings=settings,
            ),
            name=_NAME,
        )
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(
            f"{replicas} replicas\nchat page: {url}\nOpenAI-compatible API: {url}/v1\nfeedback: {name}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        stopped.wait()
        serve.delete(_NAME)  # returns once answers under way have been given, or time is up
        serve.shutdown()  # and they have all been passed on
    except RuntimeError as error:
        raise ConfigError(
            f"the replicas did not start ({error})", remedy="without --runtime ray the message is clearer"
        ) from error
    finally:
        ray.shutdown()
        for number, handler in previous.items():
            signal.signal(number, handler)
    log.info("stopped")


def deployment(
    serve: Any, model_dir: Path, store: Place, replicas: int, cores: int, options: Mapping[str, Any], *,
    host: str = "127.0.0.1", entry: Entry | None = None, guard: str = "default", settings: ServeSettings = ServeSettings(),
) -> Any:  # fmt: skip
    """What Ray Serve runs. A replica takes as many requests as its engine has places for, running and waiting."""
    wanted = serve.deployment(
        name=_NAME, num_replicas=replicas, max_ongoing_requests=_RUNNING + MAX_WAITING,
        ray_actor_options={"num_cpus": cores}, graceful_shutdown_timeout_s=DRAIN_SECONDS + 5,
        logging_config=_QUIET,
    )  # fmt: skip
    application = _application(
        model_dir.absolute(),
        store.absolute() if isinstance(store, Path) else store,
        dict(options),
        host,
        entry,
        str(Path(guard).absolute()) if guard not in ("default", "off") else guard,
        settings,
    )
    return wanted(serve.ingress(application)()).bind()


def _application(
    model_dir: Path,
    store: Place,
    options: dict[str, Any],
    host: str,
    entry: Entry | None,
    guard: str,
    settings: ServeSettings,
) -> Callable[[], FastAPI]:
    def application() -> FastAPI:
        """Called in each replica's process."""
        kept = Store(store)
        signed_by = check_first(Trail(), model_dir, options, options.get("adapters", {}), settings)
        engine = LocalEngine(model_dir, max_running=_RUNNING, max_waiting=MAX_WAITING, **options)
        return create_app(
            services_of(
                engine,
                model_dir,
                kept,
                people=open_people(kept, host=host, entry=entry),
                guard=Guard.open(guard),
                operations=Operations(settings),
                signed_by=signed_by,
            )
        )

    return application


def _load_ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        return importlib.import_module("ray"), importlib.import_module("ray.serve")
    except ImportError as error:
        raise ConfigError(
            f"replicas need Ray Serve, which is not installed ({error})", remedy="pip install 'hanok[ray]'"
        ) from error
