"""The compute curve: recovered from noisy points, and honest about what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest

from hanok.errors import InputError
from hanok.training.scaling import Curve, fit_curve, forecast, plot, predict

# published runs of ScaleRL: start, asymptote, efficiency, midpoint in GPU hours; hours that were run
RUNS = {
    "8B": (Curve(0.40, 0.610, 1.92, 2542.0), 16_000),
    "8B, 32k": (Curve(0.40, 0.645, 1.89, 11272.0), 100_000),
    "Scout": (Curve(0.40, 0.710, 1.65, 4242.0), 45_000),
    "batch 2048": (Curve(0.40, 0.645, 1.70, 10909.0), 100_000),
}


def points(name: str, noise: float, seed: int) -> tuple[Curve, list[float], list[float]]:
    curve, hours = RUNS[name]
    compute = np.linspace(hours / 100, hours, 100)
    measured = curve.at(compute) + noise * np.random.default_rng(seed).standard_normal(100)
    return curve, compute.tolist(), measured.tolist()


@pytest.mark.parametrize("name", RUNS)
def test_exact_points_give_the_curve_back(name: str) -> None:
    curve, compute, measured = points(name, 0.0, 0)
    fit = fit_curve(compute, measured, start=curve.start)
    assert fit.curve.asymptote == pytest.approx(curve.asymptote, abs=1e-6)
    assert fit.curve.efficiency == pytest.approx(curve.efficiency, rel=1e-5)
    assert fit.curve.midpoint == pytest.approx(curve.midpoint, rel=1e-5)
    assert fit.error < 1e-7
    assert fit.past_midpoint


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_half_tells_the_end(name: str, seed: int) -> None:
    curve, compute, measured = points(name, 0.003, seed)
    told = forecast(compute, measured, start=curve.start)
    assert told.until == pytest.approx(compute[-1] / 2)
    assert abs(told.fit.curve.asymptote - curve.asymptote) < 0.02
    assert abs(told.fit.curve.at(np.array(compute[-1:]))[0] - curve.at(np.array(compute[-1:]))[0]) < 0.016
    assert told.worst < 0.016 + 4 * 0.003


def test_least_squares_as_scipy_finds_them() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    curve, compute, measured = points("Scout", 0.006, 5)

    def model(c: np.ndarray, a: float, b: float, m: float) -> np.ndarray:
        return Curve(curve.start, a, b, m).at(c)

    theirs, _ = optimize.curve_fit(model, compute, measured, p0=(0.7, 1.5, 4000.0))
    ours = fit_curve(compute, measured, start=curve.start).curve
    assert (ours.asymptote, ours.efficiency, ours.midpoint) == pytest.approx(tuple(theirs), rel=1e-4)


def test_the_spread_covers_the_error() -> None:
    """Over 20 seeds the asymptote lies within two standard errors most of the time, and the error is no smaller."""
    errors, spreads = [], []
    for seed in range(20):
        curve, compute, measured = points("8B", 0.006, seed)
        fit = fit_curve(compute[::2], measured[::2], start=curve.start)
        errors.append(abs(fit.curve.asymptote - curve.asymptote))
        spreads.append(fit.spread)
    within = sum(error < 2 * spread for error, spread in zip(errors, spreads, strict=True))
    assert within >= 16
    assert 0.5 < np.sqrt(np.mean(np.square(errors))) / np.mean(spreads) < 2.0


def test_a_run_before_its_midpoint_is_not_believed() -> None:
    curve, compute, measured = points("8B, 32k", 0.003, 1)
    early = [i for i, c in enumerate(compute) if c < 0.6 * curve.midpoint]
    fit = fit_curve([compute[i] for i in early], [measured[i] for i in early], start=curve.start)
    whole = fit_curve(compute, measured, start=curve.start)
    assert not fit.past_midpoint or fit.spread > 10 * whole.spread


def test_early_points_may_be_left_out() -> None:
    curve, compute, measured = points("8B", 0.0, 0)
    spoilt = [0.2 if c < 1500 else r for c, r in zip(compute, measured, strict=True)]
    assert abs(fit_curve(compute, spoilt, start=curve.start).curve.asymptote - curve.asymptote) > 1e-3
    fit = fit_curve(compute, spoilt, start=curve.start, skip_below=1500)
    assert fit.curve.asymptote == pytest.approx(curve.asymptote, abs=1e-6)


@pytest.mark.parametrize(
    ("compute", "reward", "message"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3], "too few"),
        ([1, 2, 3, 4, 5, 6, 6], [0.1] * 7, "does not rise"),
        ([1, 2, 3, 4, 5, 6], [0.1] * 5, "5 rewards"),
        ([1, 2, 3, 4, 5, 6], [0.1] * 5 + [float("nan")], "no number"),
        ([1, 2, 3, 4, 5, 6], [0.3, 0.2, 0.1, 0.0, 0.0, 0.0], "does not rise above its start"),
    ],
)
def test_points_that_cannot_be_fitted(compute: list[float], reward: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_curve(compute, reward, start=0.0)


def test_a_straight_line_has_no_end_in_sight() -> None:
    fit = fit_curve(list(range(1, 21)), [0.1 + 0.02 * i for i in range(20)], start=0.1)
    assert fit.at_ceiling
    curve, compute, measured = points("8B", 0.003, 0)
    assert not fit_curve(compute, measured, start=curve.start).at_ceiling


def test_plot() -> None:
    curve, compute, measured = points("8B", 0.003, 0)
    figure = plot(compute, measured, forecast(compute, measured, start=curve.start), unit="GPU hours")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "GPU hours"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "measured",
        "fitted up to here",
        "asymptote",
    ]


def test_the_interval_holds_the_end_about_as_often_as_it_says() -> None:
    """Nine in ten; of 40 noisy runs, fitted on their first half."""
    held = 0
    for seed in range(40):
        curve, compute, measured = points("8B", 0.006, seed)
        found = predict(compute[:50], measured[:50], start=curve.start, at=compute[-1], draws=60)
        assert found.low < found.reward < found.high
        assert abs(found.reward - measured[-1]) < 0.04
        held += found.low <= measured[-1] <= found.high
    assert 30 <= held <= 40
