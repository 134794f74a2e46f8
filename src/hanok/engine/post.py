"""Between an engine's thread and an event loop.

From the engine: a step answers everybody in its batch, and the loop is woken once for all of them; each wake-up is a system call.

To an engine that does nothing: requests that come at once are read one after the other, and a step that begins with the first
of them lets the others wait for its end. So they are handed over together, as soon as the loop has nothing more to read. For a
request that comes alone that is some microseconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from hanok.reporting import log

# Of the loop, without another request: one reads from connections, one begins to handle what was read.
QUIET_TURNS = 3
MOST_SECONDS = 0.05  # that the first one waits for others, which a step begun without them would cost them
HEAD_START = 0.001  # seconds that the engine's thread has the interpreter for itself, to begin with what was handed over
T = TypeVar("T")


class Post:
    """To one event loop. Any thread may `send`; what was sent is delivered on the loop, in order; `before` is called first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, before: Callable[[], None] = lambda: None) -> None:
        self._loop, self._before = weakref.ref(loop), before
        self._lock = threading.Lock()
        self._letters: list[tuple[Callable[[Any], None], Any]] = []

    def send(self, told: Callable[[T], None], item: T) -> None:
        """Has `told` called with the item; nothing if the loop is closed, as nobody listens any more."""
        with self._lock:
            self._letters.append((told, item))
            if len(self._letters) > 1:
                return
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            letters, self._letters = self._letters, []
        self._before()
        for told, item in letters:
            try:
                told(item)
            except Exception as error:  # the other letters are for others
                log.error("an answer's listener failed", exc_info=error)


class Gathering:
    """Calls back once the running loop has been quiet for some turns since the last `add`, or when time is up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        # While somebody waits; whose it is may go when nobody does.
        self._hand_over: Callable[[], None] | None = None
        self._left, self._ends = 0, 0.0
        self._over: asyncio.Event | None = None  # where somebody waits for that

    async def over(self) -> None:
        """Once nobody waits for others any more, and those they were handed to have begun; at once where nobody waits."""
        if self._hand_over is None and self._over is None:
            return
        if self._over is None:
            self._over = asyncio.Event()
        await self._over.wait()

    def add(self, hand_over: Callable[[], None]) -> None:
        self._left = QUIET_TURNS
        if self._hand_over is None:
            self._hand_over, self._ends = hand_over, time.monotonic() + MOST_SECONDS
            self._next_turn()

    def _next_turn(self) -> None:
        loop = self._loop()
        assert loop is not None  # it is the one that runs
        loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._left -= 1
        if self._left > 0 and time.monotonic() < self._ends:
            self._next_turn()
            return
        hand_over, self._hand_over = self._hand_over, None
        assert hand_over is not None
        try:
            hand_over()
        finally:
            loop = self._loop()
            if self._over is not None and loop is not None:
                loop.call_later(HEAD_START, self.go_on)

    def go_on(self) -> None:
        """Whoever waits for `over` waits no more."""
        over, self._over = self._over, None
        if over is not None:
            over.set()


class Posts:
    """A `Post` and a `Gathering` for each event loop that somebody listens in."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Post, Gathering]] = (
            weakref.WeakKeyDictionary()
        )

    def here(self) -> tuple[Post, Gathering]:
        """Of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._of.get(loop)
        if found is None:
            gathering = Gathering(loop)
            found = self._of[loop] = Post(loop, gathering.go_on), gathering
        return found
