"""A lock that those who wait for it get in turn.

`threading.Lock` may be taken again at once by the thread that let it go: an engine that takes it for every step would keep out
whoever wants to replace its weights, for as long as it has work.
"""

from __future__ import annotations

import threading


class FairLock:
    """`with lock:`, as of `threading.Lock`. Whoever waits stands at the gate, and nobody passes it before them."""

    def __init__(self) -> None:
        self._gate, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._gate:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
