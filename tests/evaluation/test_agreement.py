"""Agreement of people against vectors from the books, and against scikit-learn where it is there."""

from __future__ import annotations

import math
import random

import pytest

from hanok.evaluation.agreement import cohen_kappa, krippendorff_alpha
from hanok.evaluation.statistics import median, median_difference, newcombe, wilson

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), C: four observers, twelve units, gaps; nominal 0.743
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def test_alpha_as_in_the_book() -> None:
    rows = [line.split() for line in OBSERVERS]
    units = [[label for label in unit if label != "."] for unit in zip(*rows, strict=True)]
    found = krippendorff_alpha(units)
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.count == 11
    assert found.low < found.value < found.high


def test_alpha_of_agreement_chance_and_nothing() -> None:
    rng = random.Random(1)
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]).value == 1.0
    assert abs(krippendorff_alpha([[rng.randrange(3) for _ in range(2)] for _ in range(3000)]).value) < 0.05
    assert math.isnan(krippendorff_alpha([["a", "a"]]).value)
    assert krippendorff_alpha([["a"], []]).count == 0


def test_kappa_as_scikit_learn_has_it() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = random.Random(2)
    for _ in range(20):
        one = [rng.choice("abc") for _ in range(60)]
        other = [label if rng.random() < 0.6 else rng.choice("abc") for label in one]
        assert cohen_kappa(one, other).value == pytest.approx(metrics.cohen_kappa_score(one, other))


def test_kappa_of_two_by_two() -> None:
    """Fleiss, Statistical Methods for Rates and Proportions: a table of 20, 5, 10, 15 has kappa 0.4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa([one for one, _ in pairs], [other for _, other in pairs]).value == pytest.approx(0.4)


def test_newcombe_as_in_the_paper() -> None:
    """Newcombe (1998), Statistics in Medicine 17:873, table II: 56/70 less 48/80 is 0.2, from 0.0524 to 0.3339."""
    found = newcombe(wilson(48, 80), wilson(56, 70))
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4)
    )  # fmt: skip
    assert found.clear
    assert not newcombe(wilson(5, 10), wilson(6, 10)).clear
    assert newcombe(wilson(0, 0), wilson(6, 10)).value is None


def test_medians_differ_beyond_chance_or_do_not() -> None:
    rng = random.Random(3)
    slow, quick = ([rng.gauss(mean, 5) for _ in range(80)] for mean in (100, 90))
    assert median_difference(quick, slow).clear
    assert not median_difference(quick[:40], quick[40:]).clear
    assert median_difference([], slow).value is None
    held = median(slow)
    assert held.low is not None
    assert held.high is not None
    assert held.value is not None
    assert held.low <= held.value <= held.high
    assert median([]).value is None
