"""Whether the server takes work: loading, ready, draining.

The state is one attribute that a signal handler may set, so that readiness is false at once; requests are counted on the server's
event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

State = Literal["loading", "ready", "draining"]
_LOOK = 0.02  # seconds between looks at whether all work is done
_SELDOM = 0.1


class Lifecycle:
    """Args: grace: seconds that work under way may go on once it drains; may change while the server runs."""

    def __init__(self, *, grace: float = 20.0) -> None:
        self.grace = grace
        self.started = time.monotonic()
        self.active = 0  # requests that are answered and that draining waits for
        self.state: State = "ready"
        self._ends: float | None = None

    def load(self) -> None:
        self.state = "loading"

    def loaded(self) -> None:
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        """No new work from now on. Safe in a signal handler; again: nothing happens."""
        if self.state != "draining":
            self._ends = time.monotonic() + self.grace
            self.state = "draining"

    @property
    def seconds_left(self) -> float:
        """Of the grace time; what a client that is refused is told to wait at least."""
        return self.grace if self._ends is None else max(0.0, self._ends - time.monotonic())

    async def draining(self) -> None:
        """Once it drains. A signal handler may have said so, so this looks; seldom, as it looks as long as the server runs."""
        while self.state != "draining":
            await asyncio.sleep(_SELDOM)

    async def drained(self) -> bool:
        """Once all work is done, or the grace time is over (False)."""
        while self.active and self.seconds_left > 0:
            await asyncio.sleep(_LOOK)
        return not self.active
