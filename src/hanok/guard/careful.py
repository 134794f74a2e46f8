"""A rule that fails must not take the service with it, and must not pass for a rule that found nothing.

What a rule may do wrong: raise, take longer than its budget of processor time, give a number that is none. Then it is out, and
its fail mode decides: "closed" blocks what it could not read, "flag" lets it through with a word about it.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from hanok.reporting import log

Fail = Literal["closed", "flag"]
_MUCH = 4  # times its budget: too much at once
_OFTEN = 3  # looks over the budget: too many
T = TypeVar("T")


class OverBudget(Exception):  # noqa: N818 - a state, not an error
    """A rule took more processor time than it may."""


class _Collected(threading.local):
    """Processor time that this thread has spent on collecting everybody's garbage: up to a tenth of a second at once in a process
    that has loaded much, and no rule's doing."""

    seconds = 0.0
    begun = 0.0

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if info["generation"] == 0:  # takes microseconds
            return
        if phase == "start":
            self.begun = time.thread_time()
        else:
            self.seconds += time.thread_time() - self.begun


_collected = _Collected()
gc.callbacks.append(_collected)


class Clock:
    """Processor time of this thread without collections of garbage, so that a busy machine makes no rule fail. `check` is called
    between pieces of the work. The longest piece is left out, as the machine may have been at something else in it, unless it is
    much too long by itself."""

    def __init__(self, seconds: float) -> None:
        self._begin, self._collected, self._seconds = time.thread_time(), _collected.seconds, seconds
        self._last = self._longest = 0.0

    def check(self) -> None:
        """Raises OverBudget if the time is up, or would be after another piece like the last."""
        spent = self.spent
        piece, self._last = spent - self._last, spent
        self._longest = max(self._longest, piece)
        if spent - self._longest + piece > self._seconds or spent > _MUCH * self._seconds:
            raise OverBudget(f"over its budget of {1e3 * self._seconds:g} ms")

    @property
    def spent(self) -> float:
        return time.thread_time() - self._begin - (_collected.seconds - self._collected)


@dataclass(slots=True)
class Careful:
    """How far a rule is to be trusted. `failure`: why it is out; None as long as it works."""

    name: str
    fail: Fail = "closed"
    budget: float = 0.05  # seconds of processor time for one look
    failure: str | None = None
    overs: int = 0

    def run(self, work: Callable[[Clock], T]) -> T | None:
        """What `work` gives, or None: it failed, and `failure` says how."""
        clock = Clock(self.budget)
        try:
            done = work(clock)
        except OverBudget as error:
            self.failure = str(error)
        except Exception as error:  # whatever it is: the fail mode decides, not the rule
            self.failure = f"failed ({type(error).__name__})"
            log.warning("guard: rule %s failed", self.name, exc_info=error)
        else:
            spent = clock.spent
            self.overs += spent > self.budget
            if spent <= _MUCH * self.budget and self.overs < _OFTEN:
                return done
            self.failure = f"over its budget of {1e3 * self.budget:g} ms"
        return None
