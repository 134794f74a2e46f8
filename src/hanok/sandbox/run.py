"""Run a piece of Python in a child process that is shut in (see `launcher.py` for the walls) and watch over it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from hanok.errors import HanokError
from hanok.reporting import log
from hanok.sandbox.api import Limits, Outcome, SandboxReport, Status

_LAUNCHER = Path(__file__).with_name("launcher.py")
_REMEDY = "allow user namespaces (or run as root), or accept a run without isolation: allow_unisolated=True"


class SandboxError(HanokError):
    """Untrusted code cannot be shut in on this machine, or the sandbox itself failed."""


def run_code(
    source: str, stdin: str = "", limits: Limits | None = None, *, allow_unisolated: bool = False
) -> Outcome:
    """Run `source` as a program of the interpreter's own standard library.

    It has an empty environment, an empty working folder that vanishes, no network, and no file of this machine but the
    interpreter and the system's libraries, which it cannot write.

    Args:
        allow_unisolated: where the machine does not permit that, run with limits alone; every outcome then says so,
            and a warning is logged.

    Raises:
        SandboxError: isolation is not permitted and `allow_unisolated` is not set.
    """
    report = probe()
    if not report.isolated:
        if not allow_unisolated:
            raise SandboxError(f"untrusted code cannot be isolated here: {report.reason}", remedy=_REMEDY)
        log.warning("running untrusted code without isolation: %s", report.reason)
    return _run(source, stdin, limits or Limits(), report)


@cache
def probe() -> SandboxReport:
    """Whether this machine permits isolation: found by trying, once a process."""
    if sys.platform != "linux":
        return SandboxReport(False, f"namespaces need Linux, this is {sys.platform}")
    try:
        outcome = _run("print('within')", "", Limits(), SandboxReport(True))
    except SandboxError as error:
        return SandboxReport(False, error.message)
    if outcome.stdout != "within\n":
        return SandboxReport(
            False, f"a trial run ended with {outcome.status}: {outcome.stderr.strip()[-200:]}"
        )
    return SandboxReport(True)


def _run(source: str, stdin: str, limits: Limits, report: SandboxReport) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="hanok-sandbox-") as folder, tempfile.TemporaryFile() as given:
        given.write(stdin.encode("utf-8", "surrogateescape"))
        given.seek(0)
        program = Path(folder) / "main.py"
        program.write_bytes(source.encode("utf-8", "surrogateescape"))
        order = {
            "isolate": report.isolated,
            "source": str(program),
            "folder": folder,
            "python": getattr(sys, "_base_executable", sys.executable),
            "prefix": sys.base_prefix,
            "limits": asdict(limits),
        }
        status_read, status_write = os.pipe()
        started = time.monotonic()
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_LAUNCHER), json.dumps({**order, "status": status_write})],
                stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env={},
                pass_fds=[status_write], start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(status_write)
        with os.fdopen(status_read, "rb") as notes, child:
            try:
                watched = _watch(child, limits)
            finally:  # interrupted or not, nothing of the run is left
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            end = _read_end(notes)
    return _outcome(watched, end, limits, report, time.monotonic() - started)


@dataclass(slots=True)
class _Watched:
    stdout: bytes
    stderr: bytes
    ended_by: Status | None


def _watch(child: subprocess.Popen[bytes], limits: Limits) -> _Watched:
    """Read both outputs until they end, the clock runs out or one is too long."""
    assert child.stdout is not None
    assert child.stderr is not None
    kept: dict[IO[bytes], bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
    ended_by: Status | None = None
    deadline = time.monotonic() + limits.seconds
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and ended_by is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                ended_by = "timeout"
                break
            for key, _ in selector.select(min(remaining, 0.2)):
                stream = next(s for s in kept if s.fileno() == key.fd)
                block = os.read(key.fd, 65536)
                if not block:
                    selector.unregister(stream)
                kept[stream] += block
                if len(kept[stream]) > limits.output:
                    ended_by = "output"
            if child.poll() is not None and not _readable(selector):
                break  # something that outlived the program still holds its output
    if ended_by is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(deadline - time.monotonic(), 0.0))
        ended_by = "timeout" if child.poll() is None else None
    return _Watched(bytes(kept[child.stdout]), bytes(kept[child.stderr]), ended_by)


def _readable(selector: selectors.BaseSelector) -> bool:
    return bool(selector.get_map()) and bool(selector.select(0))


def _read_end(notes: IO[bytes]) -> dict[str, Any]:
    """What the launcher said of the end, or of a failure before it; empty if it was killed before it could."""
    os.set_blocking(notes.fileno(), False)
    words: dict[str, Any] = {}
    for line in (notes.read() or b"").splitlines():
        words = json.loads(line) | words
    return words


def _outcome(
    watched: _Watched, end: dict[str, Any], limits: Limits, report: SandboxReport, seconds: float
) -> Outcome:
    if "failed" in end:
        raise SandboxError(str(end["failed"]), remedy=_REMEDY)
    code = end.get("code")
    status: Status
    if watched.ended_by is not None:
        status, code = watched.ended_by, None
    elif end.get("over") == "memory":
        status, code = "memory", None
    elif code is None:
        out_of_time = end.get("signal") == signal.SIGXCPU or end.get("cpu", 0.0) >= limits.cpu_seconds
        status = "timeout" if out_of_time else "killed"
    else:
        status = "ok" if code == 0 else "error"
    texts = [data[: limits.output].decode("utf-8", "replace") for data in (watched.stdout, watched.stderr)]
    return Outcome(status, texts[0], texts[1], seconds, code, report)
