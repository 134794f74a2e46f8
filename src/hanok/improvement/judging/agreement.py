"""How far labels can be trusted: two verdicts on one pair against each other, and against what people said.

Cohen's kappa (1960): (p_o - p_e) / (1 - p_e), agreement beyond what the two's own shares of each label would give by chance; its
interval is the percentile bootstrap over pairs, which for a table of counts is a multinomial draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from hanok.evaluation.statistics import Share, sign_test, wilson

_EXACT = 2000  # changed pairs up to which the binomial test is exact


@dataclass(frozen=True, slots=True)
class Kappa:
    """Args: value: NaN where both always give one and the same label, so that chance alone explains all."""

    value: float
    low: float
    high: float
    observed: float
    count: int


@dataclass(frozen=True, slots=True)
class PositionBias:
    """Args:
    first: share of "the first is better" among decided verdicts of either order; a half is no bias.
    consistent: share of pairs, decided in both orders, whose two verdicts name the same answer.
    p_value: of as many pairs that went to the first in both orders as to the second in both (exact sign test).
    """

    first: Share
    consistent: Share
    p_value: float


def cohen_kappa(
    one: Sequence[Hashable], other: Sequence[Hashable], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 1
) -> Kappa:  # fmt: skip
    """Of two lists of labels of the same things."""
    assert len(one) == len(other)
    count = len(one)
    if not count:
        return Kappa(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    labels = sorted({*one, *other}, key=str)
    table = Counter(zip(one, other, strict=True))
    cells_KK = np.array([[table[a, b] for b in labels] for a in labels], dtype=float)
    drawn = np.random.default_rng(seed).multinomial(count, cells_KK.ravel() / count, size=resamples)
    values = _kappa(drawn.reshape(resamples, *cells_KK.shape).astype(float))
    known = values[~np.isnan(values)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, (tail, 1 - tail)) if len(known) else (np.nan, np.nan)
    observed = float(np.trace(cells_KK)) / count
    return Kappa(float(_kappa(cells_KK[None])[0]), float(low), float(high), observed, count)


def _kappa(tables_RKK: np.ndarray) -> np.ndarray:
    """R tables of K x K labels."""
    count_R = tables_RKK.sum((1, 2))
    observed_R = np.trace(tables_RKK, axis1=1, axis2=2) / count_R
    expected_R = (tables_RKK.sum(1) * tables_RKK.sum(2)).sum(1) / count_R**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected_R < 1, (observed_R - expected_R) / (1 - expected_R), np.nan)


def position_bias(orders: Sequence[tuple[float, float]], confidence: float = 0.95) -> PositionBias:
    """Args:
    orders: of each pair, the probability that the judge gave to what stood first: in the order given, and swapped.
    """
    verdicts = [value for pair in orders for value in pair if value != 0.5]
    both = [pair for pair in orders if 0.5 not in pair]
    same = sum((given > 0.5) != (swapped > 0.5) for given, swapped in both)
    always_first = sum(given > 0.5 and swapped > 0.5 for given, swapped in both)
    return PositionBias(
        first=wilson(sum(value > 0.5 for value in verdicts), len(verdicts), confidence),
        consistent=wilson(same, len(both), confidence),
        p_value=_equal(always_first, len(both) - same - always_first),
    )


def _equal(one: int, other: int) -> float:
    """Two-sided p of a fair coin; by the normal law where the exact sum would take long."""
    if one + other <= _EXACT:
        return sign_test(one, other)
    distance = max(abs(one - other) - 1, 0) / sqrt(one + other)
    return 2 * NormalDist().cdf(-distance)
