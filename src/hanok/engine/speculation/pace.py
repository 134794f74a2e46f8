"""How many guesses pay: rows of a step cost time, guesses that hold save steps. Both are measured as the engine runs.

Nothing here can change an answer, only when it comes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MARGIN = 1.03  # tokens a second with guesses, over those without, from which on they are tried
_WINDOW = 9  # measurements of which the median counts
_PER_ROW = 0.04  # of a step's time, for rows that were never measured
_FADE = 0.8  # of what earlier guesses count, a proposal
_PROBE_SHARE = 0.01  # of the time may go into guesses that are only watched


class StepTimes:
    """Seconds of a step by its number of rows."""

    def __init__(self) -> None:
        self._latest: dict[int, deque[float]] = {}
        self._median: dict[int, float] = {}
        self._known: list[int] = []

    def add(self, rows: int, seconds: float) -> None:
        latest = self._latest.setdefault(rows, deque(maxlen=_WINDOW))
        latest.append(seconds)
        if rows not in self._median:
            self._known = sorted([*self._known, rows])
        self._median[rows] = median(latest)

    def of(self, rows: float) -> float | None:
        """Between measured numbers of rows on a line; beyond them, a guess on the low side, so that it is tried. None:
        nothing was measured."""
        below = max((known for known in self._known if known <= rows), default=None)
        above = min((known for known in self._known if known >= rows), default=None)
        if below is None:
            return None if above is None else self._median[above]
        if above is None:
            return self._median[below] * (1 + _PER_ROW * (rows - below))
        if above == below:
            return self._median[below]
        part = (rows - below) / (above - below)
        return self._median[below] * (1 - part) + self._median[above] * part


class Acceptance:
    """How likely the next guess holds, given that those before it did; recent ones count most."""

    def __init__(self, prior: float = 0.5) -> None:
        self._prior = prior
        self._held = self._failed = 0.0

    def add(self, held: int, *, failed: bool) -> None:
        self._held = _FADE * self._held + held
        self._failed = _FADE * self._failed + failed

    @property
    def rate(self) -> float:
        return (self._held + self._prior) / (self._held + self._failed + 1)


@dataclass(frozen=True, slots=True)
class Offer:
    """Guesses that could be tried for one answer.

    Args:
        rate: how likely each holds. limit: how many there are at most. deep: each further one costs a step of the draft model.
    """

    rate: float
    limit: int
    deep: bool = False


class Pace:
    """Args: recurrent: after a guess that fails, those that held before it are read again."""

    def __init__(self, *, recurrent: bool) -> None:
        self._recurrent = recurrent
        self.times = StepTimes()

    def lengths(
        self, offers: Sequence[Offer], rows: int, *, streams: int, overhead: float, deep: float
    ) -> list[int]:
        """How many guesses of each offer make tokens per second the most; the likeliest come first.

        Args:
            rows, streams: of the step without guesses, and how many answers get a token from it.
            overhead: seconds that guessing itself takes. deep: seconds of a step of the draft model.
        """
        lengths, best = [0] * len(offers), [0] * len(offers)
        base = self.times.of(rows)
        if base is None:
            return best
        fastest = MARGIN * streams / base
        tokens, again, depth = float(streams), 0.0, 0
        queue = [(-offer.rate, number) for number, offer in enumerate(offers) if offer.limit]
        heapq.heapify(queue)
        while queue:
            gain, number = heapq.heappop(queue)
            offer = offers[number]
            lengths[number] += 1
            rows += 1
            tokens -= gain
            if self._recurrent:  # the guess before it held and this one fails
                again += (lengths[number] - 1) * -gain / offer.rate * (1 - offer.rate)
            if offer.deep:
                depth = max(depth, lengths[number])
            seconds = (self.times.of(rows + again) or base) + overhead + depth * deep
            if tokens / seconds > fastest:
                fastest, best = tokens / seconds, list(lengths)
            if lengths[number] < offer.limit:
                heapq.heappush(queue, (gain * offer.rate, number))
        return best

    def rest(self, rows: int, cost: float) -> int:
        """Steps between two proposals that are only watched, so that watching takes one percent of the time."""
        seconds = self.times.of(rows)
        return 0 if not seconds else math.ceil(cost / (_PROBE_SHARE * seconds)) - 1
