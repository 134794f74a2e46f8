"""How well a score separates members from others: area under the ROC curve with its interval, and the true positives that few
false ones cost.

M members, K others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hanok.evaluation.statistics import Share, wilson

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Separation:
    """`auc` within [low, high]; `tpr`: share of members above all but `fpr` of the others."""

    auc: float
    low: float
    high: float
    tpr: Share
    fpr: float


def separate(
    members: Sequence[float], others: Sequence[float], *, fpr: float = 0.01, confidence: float = 0.95
) -> Separation:
    """Higher scores are to be members'. Interval by DeLong et al. (1988), clipped to [0, 1]."""
    members_M, others_K = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    assert min(len(members_M), len(others_K)) > 1
    wins_M = _shares_below(members_M, others_K)
    wins_K = _shares_below(-others_K, -members_M)
    auc = float(wins_M.mean())
    variance = wins_M.var(ddof=1) / len(members_M) + wins_K.var(ddof=1) / len(others_K)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance)
    bar = np.sort(others_K)[len(others_K) - 1 - int(fpr * len(others_K))]
    found = wilson(int((members_M > bar).sum()), len(members_M), confidence)
    return Separation(auc, max(0.0, auc - half), min(1.0, auc + half), found, fpr)


def roc(members: Sequence[float], others: Sequence[float]) -> tuple[Scores, Scores]:
    """False and true positives at every threshold, from none to all."""
    scores = np.concatenate([members, others])
    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of those that tie
    true, false = is_member[order].cumsum()[last], (1 - is_member[order]).cumsum()[last]
    return np.append(0.0, false / len(others)), np.append(0.0, true / len(members))


def _shares_below(ours: Scores, theirs: Scores) -> Scores:
    """Of each of ours: which share of theirs lies below it, ties counted half."""
    ordered = np.sort(theirs)
    below = np.searchsorted(ordered, ours, side="left")
    upto = np.searchsorted(ordered, ours, side="right")
    return (below + upto) / 2 / len(theirs)
