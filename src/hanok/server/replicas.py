"""Several engines behind one address: replicas of the server, each a process of its own with the whole model, under Ray Serve.

Ray starts them, sends each request to the one of two that has less to do, and starts another where one has died. What a
replica answers is what `hanok.server.app` answers; they share the store and the audit, so a judgement may reach another replica
than the one that answered. One process of them: `hanok.server.replica`.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hanok.errors import ConfigError
from hanok.guard.rulebook import Guard
from hanok.reporting import log
from hanok.server.app import check_first, first_spec, listen
from hanok.server.auditing.open import open_audit
from hanok.server.auditing.trail import Trail
from hanok.server.canary.trial import standing, standing_directory
from hanok.server.identity.directory import Entry
from hanok.server.identity.people import open_people
from hanok.server.models import check_names
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.together import Together
from hanok.server.replica import RUNNING, Replica
from hanok.store.audit.known import record_place
from hanok.store.canaries import Canaries
from hanok.store.connection import Place
from hanok.store.database import Store, feedback_file

_NAME = "hanok"
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
# Ray's own HTTP server stands before the replicas and knows nothing of these, or there is one model that stays
_NOT_HERE = (
    "tls_cert", "tls_key", "max_connections", "header_seconds", "body_seconds", "write_seconds", "keep_alive_seconds",
    "most_loaded", "models_mib", "unload_seconds", "setup", "trusted_proxy",
)  # fmt: skip


def serve_replicas(
    model_dir: Path, *, replicas: int, host: str = "127.0.0.1", port: int = 8080, store: Place | None = None,
    entry: Entry | None = None, options: Mapping[str, Any] = {}, settings: ServeSettings | None = None,
    source: Callable[[], ServeSettings] | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; running answers may finish. SIGHUP: read the settings anew, in all of them.

    Args:
        replicas: how many; each gets its part of this machine's cores.
        port: 0 picks a free one. store, source: as `hanok.server.app.serve` takes them.
        entry: who may come in. options: for each replica's `LocalEngine`. settings: of the operation.

    Raises:
        ConfigError: a setting that replicas cannot keep; the audit cannot be written; Ray is not installed; not a loopback
            address; the port is taken; more replicas than cores; an adapter is called like the model; a trial is under way.
        SignatureError: not what one of the keys has signed that the settings ask for.
    """
    settings = replace(settings or ServeSettings(), replicas=replicas)
    _check(settings)
    check_names(model_dir, options.get("adapters", {}))
    Guard.open(settings.guard)  # here its error is clearer
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= replicas <= cores:
        raise ConfigError(f"{replicas} replicas on {cores} cores", remedy=f"take 1 to {cores}")
    place = store or feedback_file(model_dir)
    folder = Path(tempfile.mkdtemp(prefix="hanok-replicas-"))
    try:
        with Store(place) as kept:  # its tables exist before two want to make them
            shown = kept.name
            name, model_dir = _standing(kept, model_dir)
            open_people(kept, host=host, entry=entry)
            _audited_once(settings, place, kept, model_dir, options)
        one = Replica(
            model_dir=model_dir.absolute(), store=place.absolute() if isinstance(place, Path) else place,
            mark=folder / "settings", name=name, host=host, entry=entry or Entry(), settings=settings, source=source,
            options=dict(options),
        )  # fmt: skip
        _run(one, cores // replicas, port, shown)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    log.info("stopped")


def _check(settings: ServeSettings) -> None:
    """Raises ConfigError for what would be ignored in silence."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        if one.name in _NOT_HERE and value != one.default:
            raise ConfigError(
                f"{one.name} = {value!r} with replicas", remedy="leave it out, or serve without --runtime ray"
            )


def _standing(store: Store, model_dir: Path) -> tuple[str | None, Path]:
    """Name and directory of what is served: a model that a trial put in its place. Raises ConfigError: one is under way."""
    trial = standing(Canaries(store), model_dir)
    if trial is None:
        return None, model_dir
    if trial.state == "running":
        raise ConfigError(
            f"{trial.canary_directory} is on trial beside {trial.current_directory}, and replicas try nothing out",
            remedy="end the trial first: hanok serve without --runtime ray, then hanok canary promote or rollback",
        )
    return trial.model, standing_directory(trial)


def _audited_once(
    settings: ServeSettings, place: Place, store: Store, model_dir: Path, options: Mapping[str, Any]
) -> None:
    """Raises ConfigError, InputError, SignatureError here, where they are clearer than in a replica."""
    audit = open_audit(settings, place)
    try:
        check_first(Trail(audit), first_spec(model_dir, options, options.get("adapters", {}), settings))
    finally:
        if audit is not None:
            audit.close()
    record_place(store, None if audit is None else audit.place)  # commands write there too


def _run(one: Replica, cores: int, port: int, store: str) -> None:
    """Until a signal."""
    ray, serve = _load_ray()
    with listen(one.host, port) as listener:  # Ray binds it itself, and says less clearly that it is taken
        port = listener.getsockname()[1]
    logging.getLogger("ray").setLevel(logging.WARNING)
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # else Ray's HTTP server believes whoever sits at this machine
    ray.init(
        address="local",
        num_cpus=cores * one.settings.replicas,
        include_dashboard=False,
        logging_level="warning",
    )
    stopped, together = threading.Event(), Together(one.mark)
    handlers: dict[int, Callable[..., None]] = {
        signal.SIGTERM: lambda *_: stopped.set(), signal.SIGINT: lambda *_: stopped.set(),
        signal.SIGHUP: lambda *_: together.announce(),
    }  # fmt: skip
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        serve.start(http_options={"host": one.host, "port": port}, logging_config=_QUIET)
        serve.run(deployment(serve, one, cores), name=_NAME)
        url = f"http://{f'[{one.host}]' if ':' in one.host else one.host}:{port}"
        print(
            f"{one.settings.replicas} replicas\nchat page: {url}\nOpenAI-compatible API: {url}/v1\nfeedback: {store}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        stopped.wait()
        serve.delete(_NAME)  # returns once answers under way have been given, or time is up
        serve.shutdown()  # and they have all been passed on
    except (RuntimeError, TimeoutError) as error:
        raise ConfigError(
            f"the replicas did not start ({error})", remedy="without --runtime ray the message is clearer"
        ) from error
    finally:
        ray.shutdown()
        for number, handler in previous.items():
            signal.signal(number, handler)


def deployment(serve: Any, one: Replica, cores: int) -> Any:
    """What Ray Serve runs. A replica takes as many requests as its engine has places for, running and waiting."""

    def application() -> FastAPI:  # Ray asks for a plain function
        return one.application()

    wanted = serve.deployment(
        name=_NAME, num_replicas=one.settings.replicas, max_ongoing_requests=RUNNING + one.entry.max_queue,
        ray_actor_options={"num_cpus": cores}, graceful_shutdown_timeout_s=one.settings.grace + 5,
        logging_config=_QUIET,
    )  # fmt: skip
    return wanted(serve.ingress(application)()).bind()


def _load_ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        return importlib.import_module("ray"), importlib.import_module("ray.serve")
    except ImportError as error:
        raise ConfigError(
            f"replicas need Ray Serve, which is not installed ({error})", remedy="pip install 'hanok[ray]'"
        ) from error
