"""Intervals for shares, and paired comparison of two models on the same questions. Plain Python, no dependencies."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of `count`, with a Wilson score interval [low, high]."""

    right: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; NaN of none."""
        return self.right / self.count if self.count else float("nan")


def wilson(right: int, count: int, confidence: float = 0.95) -> Share:
    """Wilson (1927), score interval without continuity correction; [0, 1] when nothing was counted."""
    assert 0 <= right <= count
    if count == 0:
        return Share(0, 0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == count else min(1.0, centre + half)
    return Share(right, count, low, high)


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two groups of other people or requests, second minus first; None where one has nothing to compare."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


NO_DIFFERENCE = Difference(None, None, None)


def newcombe(first: Share, second: Share) -> Difference:
    """Of two independent shares: Newcombe (1998), method 10, from the Wilson limits of each."""
    if not first.count or not second.count:
        return NO_DIFFERENCE
    value = second.value - first.value
    low = value - sqrt((second.value - second.low) ** 2 + (first.high - first.value) ** 2)
    high = value + sqrt((second.high - second.value) ** 2 + (first.value - first.low) ** 2)
    return Difference(value, low, high)


@dataclass(frozen=True, slots=True)
class Median:
    """With a percentile bootstrap interval; None of nothing."""

    value: float | None
    low: float | None
    high: float | None
    count: int


def median(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 500, seed: int = 1
) -> Median:
    if not values:
        return Median(None, None, None, 0)
    drawn = _medians(values, resamples, seed)
    low, high = _tails(drawn, confidence)
    return Median(statistics.median(values), low, high, len(values))


def median_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95, resamples: int = 500, seed: int = 1
) -> Difference:  # fmt: skip
    """Of two independent groups, each drawn anew by itself."""
    if not first or not second:
        return NO_DIFFERENCE
    pairs = zip(_medians(first, resamples, seed), _medians(second, resamples, seed + 1), strict=True)
    low, high = _tails([b - a for a, b in pairs], confidence)
    return Difference(statistics.median(second) - statistics.median(first), low, high)


def _medians(values: Sequence[float], resamples: int, seed: int) -> list[float]:
    rng, count = random.Random(seed), len(values)
    return [statistics.median(rng.choices(values, k=count)) for _ in range(resamples)]


def _tails(drawn: Sequence[float], confidence: float) -> tuple[float, float]:
    ordered, tail = sorted(drawn), (1 - confidence) / 2
    return ordered[round(tail * (len(ordered) - 1))], ordered[round((1 - tail) * (len(ordered) - 1))]


@dataclass(frozen=True, slots=True)
class Change:
    """After minus before, in share of right answers: bootstrap interval [low, high] and McNemar's exact p."""

    before: float
    after: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p_value: float


def paired_change(
    before: Sequence[bool],
    after: Sequence[bool],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 1,
) -> Change:
    """Compare two models that answered the same questions in the same order.

    The interval is the percentile bootstrap over questions (Efron and Tibshirani 1993, chapter 13); a question's two
    answers stay together.
    """
    assert len(before) == len(after) > 0
    steps = [int(b) - int(a) for a, b in zip(before, after, strict=True)]
    count, rng = len(steps), random.Random(seed)
    gained, lost = steps.count(1), steps.count(-1)
    means = sorted(sum(rng.choices(steps, k=count)) / count for _ in range(resamples))
    tail = (1 - confidence) / 2
    return Change(
        before=sum(before) / count,
        after=sum(after) / count,
        difference=(gained - lost) / count,
        low=means[round(tail * (resamples - 1))],
        high=means[round((1 - tail) * (resamples - 1))],
        gained=gained,
        lost=lost,
        p_value=sign_test(gained, lost),
    )


def sign_test(gained: int, lost: int) -> float:
    """Two-sided exact binomial test of equal gains and losses (McNemar 1947, exact form)."""
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return min(1.0, 2 * tail)
