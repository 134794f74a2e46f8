"""Stopping on request: the first SIGTERM or SIGINT asks, the second ends the process at once.

Python runs signal handlers only between its own instructions, and a step may be seconds inside one product. So the
signals' numbers go through a pipe (`signal.set_wakeup_fd`), written the moment they arrive, to a thread that acts.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """True once a stop was asked for; `signal_name` says by what."""

    def __init__(self) -> None:
        self.signal_name = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Outside the main thread, where Python takes no signals, the request can only be set by hand."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {one: signal.signal(one, lambda *_: None) for one in _SIGNALS}
    watcher = threading.Thread(target=_watch, args=(reading, request), daemon=True)
    watcher.start()
    try:
        yield request
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(before_fd)
        os.write(writing, b"\0")
        watcher.join()
        os.close(reading)
        os.close(writing)


def _watch(reading: int, request: StopRequest) -> None:
    """Act on each signal number; a zero ends the watch."""
    while number := os.read(reading, 1)[0]:
        if number not in _SIGNALS:
            continue
        if request:
            os._exit(128 + number)
        request.signal_name = signal.Signals(number).name
