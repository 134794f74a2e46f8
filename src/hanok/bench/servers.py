"""Servers that a benchmark starts, asks and stops: each a process that listens on a loopback port."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from hanok.bench.load_client import Api
from hanok.errors import HanokError

_LOOK = 0.05  # seconds between looks at a server that starts
_STOP = 30.0  # for it to end by itself


@dataclass(frozen=True, slots=True)
class Server:
    """Args:
    label: in tables. command: with `{port}` where the port belongs. api: how it is asked.
    patience: seconds that its start may take. environment: besides this process's own.
    """

    label: str
    command: Sequence[str]
    api: Api
    patience: float = 120.0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """Args: start: seconds until it answered."""

    base: str
    start: float


@contextlib.contextmanager
def running(server: Server) -> Iterator[Started]:
    """The server, until the block ends.

    Raises:
        HanokError: it ended, or did not answer in time; its last words are in the message.
    """
    port = _free_port()
    command = [part.replace("{port}", str(port)) for part in server.command]
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **server.environment}
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait(server, process, base, log)
            yield Started(base, time.perf_counter() - began)
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], base: str, log: IO[str]) -> None:
    until = time.monotonic() + server.patience
    with httpx.Client(base_url=base, timeout=5.0, trust_env=False) as client:
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/health").status_code == 200:
                    return
            time.sleep(_LOOK)
    code = process.poll()
    what = "did not answer in time" if code is None else f"ended with {code}"
    log.seek(0)
    words = log.read()[-1500:]
    raise HanokError(
        f"{server.label} {what}: {words}", remedy="start it by hand: " + " ".join(server.command)
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def executable(name: str, folder: Path) -> Path | None:
    """On PATH, or where `make peers` puts it."""
    found = shutil.which(name) or shutil.which(name, path=str(folder))
    return None if found is None else Path(found)
