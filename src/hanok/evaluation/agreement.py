"""How far people, or a judge and people, agree in their labels beyond what chance would give.

Cohen's kappa (1960), for two: (p_o - p_e) / (1 - p_e), agreement beyond what the two's own shares of each label would give by
chance; its interval is the percentile bootstrap over pairs, which for a table of counts is a multinomial draw.

Krippendorff's alpha (Content Analysis, 2004, chapter 11), for any number of people and gaps: 1 - D_o / D_e, of nominal labels;
its interval is the percentile bootstrap over things.

Legend: U things, K labels, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Kappa:
    """Args: value: NaN where both always give one and the same label, so that chance alone explains all."""

    value: float
    low: float
    high: float
    observed: float
    count: int


@dataclass(frozen=True, slots=True)
class Alpha:
    """Args: value: NaN where all labels are one and the same. count: things with two labels or more."""

    value: float
    low: float
    high: float
    count: int


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


def krippendorff_alpha(
    labels: Sequence[Sequence[Hashable]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 1
) -> Alpha:
    """Args: labels: of each thing those that it was given, by however many people; single ones tell nothing."""
    known = sorted({label for one in labels for label in one}, key=str)
    places = {label: place for place, label in enumerate(known)}
    counts_UK = np.zeros((len(labels), len(known)))
    for unit, given in enumerate(labels):
        for label in given:
            counts_UK[unit, places[label]] += 1
    counts_UK = counts_UK[counts_UK.sum(1) > 1]
    count = len(counts_UK)
    if not count:
        return Alpha(float("nan"), float("nan"), float("nan"), 0)
    given_U = counts_UK.sum(1)
    # coincidences of equal labels, as the thing's own, and how often each label was given
    equal_U = (counts_UK * (counts_UK - 1)).sum(1) / (given_U - 1)
    weights_RU = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    values_R = _alpha(weights_RU @ equal_U, weights_RU @ counts_UK)
    sure = values_R[~np.isnan(values_R)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(sure, (tail, 1 - tail)) if len(sure) else (np.nan, np.nan)
    value = _alpha(equal_U.sum()[None], counts_UK.sum(0)[None])[0]
    return Alpha(float(value), float(low), float(high), count)


def _alpha(equal_R: np.ndarray, labels_RK: np.ndarray) -> np.ndarray:
    all_R = labels_RK.sum(1)
    observed_R = 1 - equal_R / all_R
    expected_R = 1 - (labels_RK * (labels_RK - 1)).sum(1) / (all_R * (all_R - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected_R > 0, 1 - observed_R / expected_R, np.nan)
