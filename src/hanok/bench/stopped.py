"""Ctrl-C in a benchmark: one line, exit code 130, and no process left behind that it has started. Bad input: one line, and 2."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from hanok.errors import HanokError

CODE = 128 + signal.SIGINT
_PATIENCE = 5.0  # seconds that a child has to end by itself
_LOOK = 0.02
P = ParamSpec("P")


def stoppable(main: Callable[P, None]) -> Callable[P, None]:
    """For the command line of each file of `benchmarks/`."""

    @functools.wraps(main)
    def stops(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except HanokError as error:
            if os.environ.get("HANOK_DEBUG") == "1":
                raise
            end_children()
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # a second one while the children end changes nothing
            end_children()
            print("stopped: nothing is reported of this run", file=sys.stderr)
            sys.exit(CODE)

    return stops


def end_children(patience: float = _PATIENCE) -> None:
    """Those that still run are told to end, and killed if they do not. Where the system does not list them (in /proc), those
    that were waited for have ended already."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for child in _children():
            _tell(child, number)
        end = time.monotonic() + patience
        while _children() and time.monotonic() < end:
            time.sleep(_LOOK)


def _children() -> list[int]:
    """Of all threads; those that have ended are taken off the list."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            listed = file.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended since it was listed
            continue
        for child in map(int, listed):
            try:
                ended, _ = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                continue
            if not ended:
                found.append(child)
    return found


def _tell(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return
