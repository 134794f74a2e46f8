"""uvicorn's server as a service: it answers before its models are loaded, drains when it is told to end, and watches itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hanok.reporting import log
from hanok.server.errors import error_response
from hanok.server.operations.lifecycle import Lifecycle
from hanok.server.operations.systemd import notify
from hanok.server.operations.timeouts import Guard

FLUSH_SECONDS = 5.0  # for the last events of answers that the grace time cut
_OTHER_DESCRIPTORS = 256
_KILLED = 128 + signal.SIGTERM


class Gate:
    """The application, once there is one; before, an answer that says to wait."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._wait(scope)(scope, receive, send)

    def _wait(self, scope: Scope) -> ASGIApp:
        if scope["path"] == "/healthz":
            return JSONResponse({"status": "ok"})
        response = error_response(503, "the model is loading", code="loading")
        response.headers["Retry-After"] = "2"
        return response


def refuse(lifecycle: Lifecycle) -> ASGIApp:
    """The answer to new work while there is none to be had."""
    word = "stopping" if lifecycle.state == "draining" else "loading"
    response = error_response(503, f"the server is {word}", code=word)
    response.headers["Retry-After"] = str(max(1, round(lifecycle.seconds_left)))
    response.headers["Connection"] = "close"
    return response


def allow_descriptors(connections: int) -> None:
    """As many as the connections need, where the system lets us; a log line where it does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        log.warning(
            "%d file descriptors for %d connections: raise LimitNOFILE or ulimit -n", hard, connections
        )


class Server(uvicorn.Server):
    """Args:
    start: makes the application, in a thread of its own, while the server answers already that it is loading.
    interrupt: ends all answers under way, each with a word to its client.
    reload: on SIGHUP.
    """

    def __init__(
        self, config: uvicorn.Config, gate: Gate, *, lifecycle: Lifecycle, guard: Guard, start: Callable[[], FastAPI],
        interrupt: Callable[[], None], reload: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.failure: BaseException | None = None
        self._gate, self._lifecycle, self._guard = gate, lifecycle, guard
        self._start, self._interrupt, self._reload = start, interrupt, reload
        self._tasks: list[asyncio.Task[None]] = []
        self._running = contextlib.AsyncExitStack()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: end at once."""
        if self._lifecycle.state != "draining":
            self._lifecycle.drain()
            return
        self.force_exit = self.should_exit = True
        reaper = threading.Timer(
            1.0, os._exit, args=(_KILLED,)
        )  # a thread that hangs must not hold the process
        reaper.daemon = True
        reaper.start()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(work()) for work in (self._bring_up, self._end_when_drained, self._look)
        ]
        if threading.current_thread() is threading.main_thread():  # no other may: a server in a test has none
            loop.add_signal_handler(signal.SIGHUP, self._reload)

    async def shutdown(self, sockets: Any = None) -> None:
        notify("STOPPING=1")
        self._lifecycle.drain()
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._running.aclose()

    async def _bring_up(self) -> None:
        try:
            app = await asyncio.to_thread(self._start)
            await self._running.enter_async_context(app.router.lifespan_context(app))
        except asyncio.CancelledError:  # told to end while loading
            raise
        except BaseException as error:
            self.failure, self.should_exit = error, True
            return
        self._gate.app = app
        self._lifecycle.loaded()
        if self._lifecycle.state == "ready":
            notify("READY=1")

    async def _end_when_drained(self) -> None:
        await self._lifecycle.draining()
        notify("STOPPING=1")
        log.info("stopping; %d answers under way have %.0f s", self._lifecycle.active, self._lifecycle.grace)
        if not await self._lifecycle.drained():
            log.warning("%d answers are cut short", self._lifecycle.active)
            self._interrupt()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    while self._lifecycle.active:
                        await asyncio.sleep(0.02)
        self.should_exit = True

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._guard.look(self.server_state.connections)
