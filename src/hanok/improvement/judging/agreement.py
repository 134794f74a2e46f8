"""How far a judge's verdicts can be trusted: whether the order of two answers sways it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from hanok.evaluation.statistics import Share, sign_test, wilson

_EXACT = 2000  # changed pairs up to which the binomial test is exact


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
