"""Whether a text carries a watermark: a count of green tokens against what an unmarked text would have.

Only the first token behind each context counts (`hanok.tokens.watermark`). In an unmarked text each such token is green with
probability gamma, independently of the others over the draw of the key, so that their number is binomial and its upper tail is
the p-value. A text that is marked in part is found by windows of it; their p-values are multiplied by the number of windows
(Bonferroni), and by two for looking in both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hanok.tokens.watermark import Context, Watermark

WINDOWS = (50, 100, 200, 400, 800)  # tested tokens of a window
_STEPS = 4  # places of a window within its own length
MARKED = 1e-4  # p-value from which on the answer is "marked"
LEAST_TOKENS = 40  # tested; fewer say nothing
_GRADES = ((1e-8, "overwhelming"), (MARKED, "strong"), (1e-2, "weak"))


@dataclass(frozen=True, slots=True)
class Count:
    """`green` of `tested` tokens, and how probable so many or more are without a mark. start, end: tokens of the text."""

    start: int
    end: int
    tested: int
    green: int
    z: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Detection:
    """Args:
    whole: of all of the text. window: the most conspicuous of its windows, None of a text that has none; its p-value is that of
        this window alone. windows: how many were looked at.
    p_value: of whole and windows together; valid whatever the text is.
    """

    key_id: str
    whole: Count
    window: Count | None
    windows: int
    p_value: float


def detect(ids: Sequence[int], watermark: Watermark) -> Detection:
    """Of a text's tokens, by the tokeniser of the model that may have written it."""
    places, green_N = _tested(ids, watermark)
    whole = _count(places, green_N, 0, len(places), watermark)
    found = _windows(len(places))
    counts = [_count(places, green_N, start, end, watermark) for start, end in found]
    best = min(counts, key=lambda one: one.p_value, default=None)
    together = whole.p_value
    if best is not None:
        together = min(1.0, 2.0 * min(whole.p_value, len(found) * best.p_value))
    return Detection(watermark.key_id, whole, best, len(found), together)


def detect_any(ids: Sequence[int], watermarks: Sequence[Watermark]) -> Detection:
    """By the key that speaks most for a mark; the p-value is multiplied by how many were tried. At least one."""
    best = min((detect(ids, one) for one in watermarks), key=lambda one: one.p_value)
    p_value = min(1.0, len(watermarks) * best.p_value)
    return Detection(best.key_id, best.whole, best.window, best.windows, p_value)


def described(found: Detection) -> dict[str, str]:
    """Verdict and evidence, in words."""
    if found.whole.tested < LEAST_TOKENS:
        return {"verdict": "too short", "evidence": "none"}
    evidence = next((word for most, word in _GRADES if found.p_value <= most), "none")
    return {"verdict": "marked" if found.p_value <= MARKED else "not marked", "evidence": evidence}


def binomial_tail(green: int, tested: int, gamma: float) -> float:
    """P(X >= green) of X ~ Binomial(tested, gamma), exactly but for rounding."""
    if green <= 0:
        return 1.0
    if green > tested:
        return 0.0
    log_odds = math.log(gamma) - math.log1p(-gamma)
    first = (
        math.lgamma(tested + 1) - math.lgamma(green + 1) - math.lgamma(tested - green + 1)
        + green * math.log(gamma) + (tested - green) * math.log1p(-gamma)
    )  # fmt: skip
    k = np.arange(green, tested, dtype=np.float64)
    steps = np.concatenate([[0.0], np.cumsum(np.log(tested - k) - np.log(k + 1) + log_odds)])
    return min(1.0, float(np.exp(first + steps).sum()))


def _tested(ids: Sequence[int], watermark: Watermark) -> tuple[list[int], NDArray[np.bool_]]:
    """Places of tokens that stand behind a context for the first time, and whether they are green."""
    width, seen = watermark.width, set[Context]()
    places: list[int] = []
    for place in range(width, len(ids)):
        context = tuple(ids[place - width : place])
        if context not in seen:
            seen.add(context)
            places.append(place)
    contexts = [tuple(ids[place - width : place]) for place in places]
    return places, watermark.colours.are_green(contexts, [ids[place] for place in places])


def _windows(tested: int) -> list[tuple[int, int]]:
    return [
        (start, start + size)
        for size in WINDOWS
        if size < tested
        for start in range(0, tested - size + 1, size // _STEPS)
    ]


def _count(
    places: Sequence[int], green_N: NDArray[np.bool_], start: int, end: int, watermark: Watermark
) -> Count:
    gamma, tested, green = watermark.gamma, end - start, int(green_N[start:end].sum())
    if not tested:
        return Count(0, 0, 0, 0, 0.0, 1.0)
    z = (green - gamma * tested) / math.sqrt(tested * gamma * (1 - gamma))
    return Count(places[start], places[end - 1] + 1, tested, green, z, binomial_tail(green, tested, gamma))
