"""A rule that fails must not take the service with it, and must not pass for a rule that found nothing.

What a rule may do wrong: raise, take longer than its budget of processor time, give a number that is none. Then it is out, and
its fail mode decides: "closed" blocks what it could not read, "flag" lets it through with a word about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from hanok.reporting import log

Fail = Literal["closed", "flag"]
_MUCH = 4  # times its budget: too much at once
_OFTEN = 3  # looks over the budget: too many
T = TypeVar("T")


class OverBudget(Exception):  # noqa: N818 - a state, not an error
    """A rule took more processor time than it may."""


class Unfit(Exception):  # noqa: N818 - a state, not an error
    """A rule cannot do its work here; the words say why, and are told."""


class Clock:
    """Processor time of this thread, so that a busy machine makes no rule fail. `check` is called between pieces of the work. The
    longest piece is left out, as the interpreter may have collected its garbage in it, unless it is much too long by itself."""

    def __init__(self, seconds: float) -> None:
        self._begin, self._seconds = time.thread_time(), seconds
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
        return time.thread_time() - self._begin


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
        except Unfit as error:
            self.failure = str(error)
            log.warning("guard: rule %s: %s", self.name, error)
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
