"""All that watches a running server, in one place: `create_app` puts it around the routes, `routes/operations.py` shows it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from hanok.engine.generator import LocalEngine
from hanok.engine.metrics import EngineMetrics
from hanok.errors import ConfigError, EngineError
from hanok.guard.verdicts import VerdictEvent
from hanok.reporting import log
from hanok.server.canary.trial import Trials
from hanok.server.exchange import Observer
from hanok.server.operations.config import ServeSettings, changes, keep_fixed
from hanok.server.operations.health import Health
from hanok.server.operations.lifecycle import Lifecycle
from hanok.server.operations.logs import AccessLog, log_verdict, set_level
from hanok.server.operations.metrics import Metrics, process_facts
from hanok.server.operations.replacing import Replacing
from hanok.server.operations.requests import Attach, Watcher
from hanok.server.operations.status import Status
from hanok.server.operations.systemd import notify
from hanok.server.operations.timeouts import Guard, Patience
from hanok.server.operations.together import Together
from hanok.server.operations.traces import Traces

UPLOADS = "/v1/files"
_EVERY = 1.0  # seconds between looks at the engines


class Engines(Protocol):
    """What `Models` tells about those that are loaded."""

    @property
    def engines(self) -> Mapping[str, LocalEngine]: ...
    def hash_of(self, name: str) -> str: ...


class Operations:
    """Args: source: the settings anew, for `reload`; None where there is nothing to read them from. together: with processes
    that are the same server."""

    def __init__(
        self, settings: ServeSettings | None = None, *, source: Callable[[], ServeSettings] | None = None,
        traces: Traces | None = None, together: Together | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or ServeSettings()
        self.lifecycle = Lifecycle(grace=self.settings.grace)
        self.guard = Guard(patience_of(self.settings))
        self.status = Status()
        self.metrics = Metrics(self.lifecycle, self._numbers)
        self.health = Health(self._engines, lambda name, why: self._fault("engine", "engine.ill", name, why))
        self.told: list[Callable[[str, Mapping[str, Any]], None]] = []  # of faults: a word and facts
        self.in_force: Callable[[], Mapping[str, Any]] = (
            dict  # of the rules that a reload may change: what the audit is to know
        )
        self.reloaded: list[
            Callable[[Mapping[str, Any]], None]
        ] = []  # told of each, with what was in force before and is now
        self.connections: Callable[[], int] = lambda: 0
        # each reads what it needs, and may give what puts it in force once all others could be read too
        self.on_reload: list[Callable[[ServeSettings], Callable[[], None] | None]] = []
        self.replacing = Replacing(self._taken_back)
        self.trials = Trials(self.replacing, lambda word, facts: self._tell(word, facts))
        self.observers: tuple[Observer, ...] = (
            Attach(), self.status, self.metrics, self.replacing, self.trials
        )  # fmt: skip
        self.at_end: list[Callable[[], Awaitable[None]]] = []  # while the loop still runs
        self.at_last: list[
            Callable[[], Awaitable[None]]
        ] = []  # after everything that may still be written down
        self._traces, self._source, self._together = traces, source, together
        self.watchers: tuple[Watcher, ...] = (
            self.status, self.metrics, AccessLog(), *(() if traces is None else (traces,))
        )  # fmt: skip
        self._models: Engines | None = None
        self._before: dict[str, EngineMetrics] = {}
        self._pace: dict[str, tuple[float, float]] = {}

    def watch(self, models: Engines) -> None:
        self._models = models

    def problem(self) -> str | None:
        """Why the server takes no work; None if it does."""
        state = self.lifecycle.state
        return state if state != "ready" else self.health.problem()

    def verdict(self, event: VerdictEvent) -> None:
        """Told of each finding of the guard."""
        self.metrics.verdict(event)
        self.trials.verdict(event)
        log_verdict(event)

    def body_limit(self, path: str) -> int:
        upload = path == UPLOADS or path.startswith(f"{UPLOADS}/")
        return (self.settings.max_upload_mib if upload else self.settings.max_body_mib) << 20

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Looks at the engines every second, as long as the block runs."""
        task = asyncio.get_running_loop().create_task(self._look_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.trials.close()
            await self.replacing.close()
            for finish in self.at_end:
                await finish()
            if self._traces is not None:
                await asyncio.to_thread(self._traces.close)

    def check_alone(self, what: str) -> None:
        """Raises ConfigError in one of several processes: it would hold for this one only."""
        if self._together is not None:
            raise ConfigError(
                f"{what} in replicas", remedy="start the server anew with it, or without --runtime ray"
            )

    def announce(self) -> None:
        """What was taken up here is to be taken up by the other processes of this server."""
        if self._together is not None:
            self._together.announce()

    def reload(self) -> dict[str, list[str]]:
        """Read the settings anew and take what can change, in all processes of this server: names of what did, and of what needs
        a new start.

        Raises:
            ConfigError: they cannot be used; the old ones stay.
        """
        found = self._take_up()
        self.announce()
        return found

    def _take_up(self) -> dict[str, list[str]]:
        if self._source is None:
            raise ConfigError("this server has no settings to read again", remedy="start it with hanok serve")
        notify("RELOADING=1")
        try:
            new = self._source()
            live, fixed = changes(self.settings, new)
            new = keep_fixed(self.settings, new)
            read = [take(new) for take in self.on_reload]
        except ConfigError as error:
            log.error("the settings stay as they were: %s", error)
            raise
        finally:
            notify("READY=1")
        before = self.in_force()
        for put_in_force in filter(None, read):
            put_in_force()
        self.settings, self.lifecycle.grace, self.guard.patience = new, new.grace, patience_of(new)
        if "log_level" in live:
            set_level(new.log_level)
        log.info(
            "settings read: changed %s; need a new start: %s", ", ".join(live) or "-", ", ".join(fixed) or "-"
        )
        found = {"changed": live, "needs_restart": fixed}
        for tell in self.reloaded:
            tell({**found, "before": before, "now": self.in_force()})
        return found

    def reload_if_possible(self) -> None:
        """On a signal: whoever sent it reads the log."""
        with contextlib.suppress(ConfigError):
            self.reload()

    def interrupt(self) -> None:
        """End all answers under way with a word to their clients."""
        error = EngineError("the server is stopping", remedy="send the request again")
        for engine in (*self._engines().values(), *self.replacing.engines, *self.trials.engines):
            engine.interrupt(error)

    def report(self) -> dict[str, Any]:
        """`GET /admin/status`."""
        numbers = self._numbers()
        return {
            "time": time.time(), "state": self._state(), "version": _version(), **self.status.report(),
            "requests": {
                "running": sum(one.requests_running for one in numbers.values()),
                "waiting": sum(one.requests_waiting for one in numbers.values()),
                "connections": self.connections(),
            },
            "models": [self._model(name, one) for name, one in numbers.items()],
            "process": process_facts(),
        }  # fmt: skip

    def _state(self) -> str:
        state = self.lifecycle.state
        return "broken" if state == "ready" and self.health.problem() else state

    def _model(self, name: str, numbers: EngineMetrics) -> dict[str, Any]:
        read = numbers.cached_tokens + numbers.prefilled_tokens
        step_seconds, model_share = self._pace.get(name, (None, None))
        assert self._models is not None
        return {
            "name": name, "hash": self._models.hash_of(name),
            "state": "broken" if self.health.ill(name) else "asleep" if numbers.asleep else "ready",
            "running": numbers.requests_running, "waiting": numbers.requests_waiting,
            "cache": {
                "blocks": numbers.blocks_held + numbers.blocks_idle + numbers.blocks_free, "used": numbers.blocks_held,
                "idle": numbers.blocks_idle, "free": numbers.blocks_free, "peak": numbers.blocks_peak,
                "hit_share": numbers.cached_tokens / read if read else None,
            },
            "speculation": {"drafted": numbers.drafted_tokens, "accepted": numbers.accepted_tokens},
            "preemptions": numbers.preemptions, "step_seconds": step_seconds, "model_share": model_share,
        }  # fmt: skip

    def _fault(self, what: str, word: str, model: str, why: str) -> None:
        self.status.error(what, model=model, why=why)
        self._tell(word, {"model": model, "why": why})

    def _taken_back(self, model: str, weights: str, why: str) -> None:
        self._fault("model taken back", "model.taken_back", model, why)
        self.trials.taken_back(model, weights, why)

    def _tell(self, word: str, facts: Mapping[str, Any]) -> None:
        for tell in self.told:
            tell(word, facts)

    def _engines(self) -> Mapping[str, LocalEngine]:
        return {} if self._models is None else self._models.engines

    def _numbers(self) -> dict[str, EngineMetrics]:
        return {name: engine.metrics() for name, engine in self._engines().items()}

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # whatever it is, the next look may be better
                log.error("looking at the engines failed", exc_info=error)
            if not self.health.stuck():
                notify("WATCHDOG=1")
            if self._together is not None and self._together.heard():
                with contextlib.suppress(ConfigError):  # the log says why
                    await asyncio.to_thread(self._take_up)
            await asyncio.sleep(_EVERY)

    def look(self) -> None:
        self.health.look()
        for name, engine in self._engines().items():
            waits = engine.drain_waits()
            self.metrics.waited(name, waits)
            self.status.waited(waits)
        numbers = self._numbers()
        used = sum(one.blocks_held for one in numbers.values())
        blocks = sum(one.blocks_held + one.blocks_idle + one.blocks_free for one in numbers.values())
        self.status.tick(
            running=sum(one.requests_running for one in numbers.values()),
            waiting=sum(one.requests_waiting for one in numbers.values()),
            cache_used_share=used / blocks if blocks else None,
        )
        for name, now in numbers.items():
            self._keep_pace(name, self._before.get(name), now)
        self._before = numbers

    def _keep_pace(self, name: str, before: EngineMetrics | None, now: EngineMetrics) -> None:
        """Seconds a step, and the model's share of them, where there were steps."""
        if before is None or now.steps <= before.steps:
            return
        model = now.model_seconds - before.model_seconds
        whole = model + now.scheduler_seconds - before.scheduler_seconds
        if whole > 0:
            self._pace[name] = (whole / (now.steps - before.steps), model / whole)


def patience_of(settings: ServeSettings) -> Patience:
    return Patience(
        connections=settings.max_connections, header=settings.header_seconds, body=settings.body_seconds,
        write=settings.write_seconds,
    )  # fmt: skip


def _version() -> str:
    try:
        return version("hanok")
    except PackageNotFoundError:
        return "0"
