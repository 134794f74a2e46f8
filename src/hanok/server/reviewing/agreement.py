"""How far reviewers agree where several decided the same: each two by Cohen's kappa, all by Krippendorff's alpha."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from math import isnan
from typing import Any

from hanok.evaluation.agreement import cohen_kappa, krippendorff_alpha
from hanok.store.review.items import Decision

_RESAMPLES = 1000


def agreement(decisions: Sequence[Decision], name: Callable[[str], str]) -> dict[str, Any]:
    """Args:
    decisions: of items that several decided, each without seeing the others'. name: of a reviewer, by id.
    """
    items: dict[str, dict[str, str]] = defaultdict(dict)
    for one in decisions:
        items[one.item][one.reviewer] = one.verdict
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for verdicts in items.values():
        for first, second in combinations(sorted(verdicts), 2):
            pairs[first, second].append((verdicts[first], verdicts[second]))
    alpha = krippendorff_alpha([list(verdicts.values()) for verdicts in items.values()], resamples=_RESAMPLES)
    return {
        "object": "review.agreement", "items": len(items), "decisions": len(decisions),
        "alpha": {"value": _number(alpha.value), "low": _number(alpha.low), "high": _number(alpha.high)},
        "pairs": [_pair(reviewers, labels, name) for reviewers, labels in sorted(pairs.items())],
    }  # fmt: skip


def _pair(
    reviewers: tuple[str, str], labels: Sequence[tuple[str, str]], name: Callable[[str], str]
) -> dict[str, Any]:
    kappa = cohen_kappa([one for one, _ in labels], [other for _, other in labels], resamples=_RESAMPLES)
    return {
        "reviewers": list(reviewers), "names": [name(one) for one in reviewers], "items": kappa.count,
        "observed": _number(kappa.observed), "kappa": _number(kappa.value), "low": _number(kappa.low),
        "high": _number(kappa.high),
    }  # fmt: skip


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if isnan(value) else value
