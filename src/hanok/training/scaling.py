"""Where will this run end? A sigmoid of reward over compute, fitted to its first part and checked on the rest.

ScaleRL, arXiv 2510.13786, equation 1, with R0 the reward before training:

    R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B)

A: what the recipe tends to; B: how steeply it gets there; C_mid: the compute at half of the gain. Unlike a power law it
levels off, so a fit to half of a run says something about its end. A run that has not passed C_mid says little about A:
look at `Fit.spread` and `Fit.past_midpoint` before believing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hanok.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST = 6


@dataclass(frozen=True, slots=True)
class Curve:
    """`compute` may be in any unit: tokens, samples, seconds, FLOPs; `midpoint` is in the same."""

    start: float
    asymptote: float
    efficiency: float
    midpoint: float

    def at(self, compute: np.ndarray) -> np.ndarray:
        """Reward at each amount of compute, all above 0."""
        return self.start + (self.asymptote - self.start) * _gain(compute, self.efficiency, self.midpoint)


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted curve and how far to believe it.

    Args:
        error: root mean square of what it leaves unexplained.
        spread: standard error of the asymptote by leaving each point out in turn (jackknife).
        past_midpoint: whether the points reach beyond half of the gain.
        at_ceiling: whether the asymptote is the largest reward there is: the points then say nothing of where they
            level off, and the spread is no measure.
    """

    curve: Curve
    error: float
    spread: float
    past_midpoint: bool
    at_ceiling: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """A fit to the points up to `until`, and how it did on those after.

    Args:
        worst: largest absolute error on the held-out points. `last`: predicted minus measured at the last one.
        asymptote_moved: asymptote of the fit to all points minus that of this one.
    """

    fit: Fit
    until: float
    worst: float
    last: float
    asymptote_moved: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Args: low, high: nine tenths of what other noise of the same size would have predicted and shown."""

    fit: Fit
    at: float
    reward: float
    low: float
    high: float


def fit_curve(
    compute: Sequence[float], reward: Sequence[float], *, start: float, ceiling: float = 1.0, skip_below: float = 0.0
) -> Fit:  # fmt: skip
    """Least squares: a grid over A, B and C_mid, then Gauss-Newton with damping from its best point.

    Args:
        start: reward before training, R0.
        ceiling: the largest reward there is.
        skip_below: points below this much compute are left out (the paper drops the first 1,500 GPU hours).

    Raises:
        InputError: fewer than 6 points, compute that does not rise above 0, rewards that are no numbers or no better
            at the end than at the start.
    """
    x, y = _points(compute, reward, start, ceiling, skip_below)
    curve = _fit(x, y, start, ceiling)
    asymptotes = [
        _fit(np.delete(x, i), np.delete(y, i), start, ceiling, near=curve).asymptote for i in range(len(x))
    ]
    spread = float(np.sqrt((len(x) - 1) * np.var(asymptotes)))
    error = float(np.sqrt(np.mean((curve.at(x) - y) ** 2)))
    at_ceiling = ceiling - curve.asymptote < 1e-3 * (ceiling - start)
    return Fit(curve, error, spread, bool(x[-1] > curve.midpoint), bool(at_ceiling))


def forecast(
    compute: Sequence[float], reward: Sequence[float], *, start: float, share: float = 0.5, ceiling: float = 1.0,
    skip_below: float = 0.0,
) -> Forecast:  # fmt: skip
    """Fit to the points within the first `share` of the compute, and compare with the rest."""
    if not 0.0 < share < 1.0:
        raise InputError(f"share = {share}", remedy="a part of the run: above 0 and below 1")
    x, y = _points(compute, reward, start, ceiling, skip_below)
    seen = x <= share * x[-1]
    fit = fit_curve(x[seen].tolist(), y[seen].tolist(), start=start, ceiling=ceiling)
    errors = fit.curve.at(x[~seen]) - y[~seen]
    moved = _fit(x, y, start, ceiling).asymptote - fit.curve.asymptote
    return Forecast(fit, float(x[seen][-1]), float(np.abs(errors).max()), float(errors[-1]), float(moved))


def predict(
    compute: Sequence[float], reward: Sequence[float], *, start: float, at: float, ceiling: float = 1.0,
    skip_below: float = 0.0, draws: int = 200, seed: int = 0,
) -> Prediction:  # fmt: skip
    """The reward at an amount of compute that was not reached yet, by a curve through the points so far.

    The interval holds nine tenths of what curves through other noise of the same size predict (residual bootstrap), with
    that noise on top: it knows nothing of a curve that is no sigmoid.
    """
    x, y = _points(compute, reward, start, ceiling, skip_below)
    fit = fit_curve(x.tolist(), y.tolist(), start=start, ceiling=ceiling)
    point, smooth = np.array([float(at)]), fit.curve.at(x)
    residual = (y - smooth) * np.sqrt(len(x) / (len(x) - 3))  # three numbers were fitted
    rng = np.random.default_rng(seed)
    found = [
        float(_fit(x, smooth + rng.choice(residual, len(x)), start, ceiling, near=fit.curve).at(point)[0])
        + float(rng.choice(residual))
        for _ in range(draws)
    ]
    low, high = np.minimum(np.quantile(found, [0.05, 0.95]), ceiling)
    return Prediction(fit, float(at), float(fit.curve.at(point)[0]), float(low), float(high))


def plot(
    compute: Sequence[float], reward: Sequence[float], forecast: Forecast, *, unit: str = "compute"
) -> Figure:
    """Points, the curve as fitted, and where it begins to be a forecast."""
    from matplotlib.figure import Figure

    x, curve = np.asarray(compute, dtype=float), forecast.fit.curve
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    line = np.geomspace(x[x > 0].min(), x.max(), 200)
    axes.scatter(x, reward, s=12, label="measured")
    for part, style in ((line <= forecast.until, "-"), (line > forecast.until, "--")):
        axes.plot(line[part], curve.at(line[part]), style, color="tab:orange")
    axes.axvline(forecast.until, color="grey", linewidth=0.8, label="fitted up to here")
    axes.axhline(curve.asymptote, color="tab:orange", linewidth=0.8, linestyle=":", label="asymptote")
    axes.set(xscale="log", xlabel=unit, ylabel="reward")
    axes.legend()
    return figure


def _points(
    compute: Sequence[float], reward: Sequence[float], start: float, ceiling: float, skip_below: float
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(compute, dtype=float), np.asarray(reward, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(
            f"{x.size} amounts of compute and {y.size} rewards", remedy="give one reward for each amount"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a point that is no number", remedy="leave out the steps that have no reward")
    if not (np.diff(x) > 0).all() or (x.size and x[0] < 0):
        raise InputError("compute does not rise", remedy="order the points by compute, one for each amount")
    if not start < ceiling:
        raise InputError(
            f"start = {start} with a ceiling of {ceiling}", remedy="the ceiling must be above the start"
        )
    kept = (x > 0) & (x >= skip_below)
    if kept.sum() < _FEWEST:
        raise InputError(
            f"{int(kept.sum())} points are too few for a curve", remedy=f"it needs at least {_FEWEST}"
        )
    if y[kept][-3:].mean() <= start:
        raise InputError(
            f"the reward does not rise above its start of {start}", remedy="there is no curve to fit yet"
        )
    return x[kept], y[kept]


def _fit(x: np.ndarray, y: np.ndarray, start: float, ceiling: float, near: Curve | None = None) -> Curve:
    theta = _grid(x, y, start, ceiling) if near is None else _to_free(near, ceiling)
    damping, residual = 1e-3, _from_free(theta, start, ceiling).at(x) - y
    for _ in range(200):
        slope = _slopes(theta, x, start, ceiling)
        normal = slope.T @ slope
        step = np.linalg.solve(
            normal + damping * (np.diag(np.diag(normal)) + 1e-12 * np.eye(3)), slope.T @ residual
        )
        moved = np.clip(theta - step, -30, 60)
        moved_residual = _from_free(moved, start, ceiling).at(x) - y
        if (better := residual @ residual - moved_residual @ moved_residual) > 0:
            theta, residual, damping = moved, moved_residual, damping / 3
            if better < 1e-14 * (residual @ residual + 1e-30):
                break
        elif (damping := damping * 4) > 1e12:
            break
    return _from_free(theta, start, ceiling)


def _grid(x: np.ndarray, y: np.ndarray, start: float, ceiling: float) -> np.ndarray:
    """The best of 40 x 24 x 40 curves; for each B and C_mid the shape is the same, only the height differs."""
    height = np.linspace(0.02, 0.999, 40) * (ceiling - start)
    powers = np.geomspace(0.2, 8.0, 24)
    middles = np.geomspace(x[0] / 10, x[-1] * 10, 40)
    shapes = _gain(x, powers[:, None, None], middles[None, :, None])
    gain = y - start
    cross, square = shapes @ gain, (shapes**2).sum(-1)
    errors = height[:, None, None] ** 2 * square - 2 * height[:, None, None] * cross
    i, j, k = np.unravel_index(np.argmin(errors), errors.shape)
    return _to_free(Curve(start, start + height[i], powers[j], middles[k]), ceiling)


def _gain(compute: np.ndarray, efficiency: float | np.ndarray, midpoint: float | np.ndarray) -> np.ndarray:
    """1 / (1 + (midpoint / compute)^efficiency), written so that no power overflows."""
    return 0.5 + 0.5 * np.tanh(0.5 * efficiency * np.log(compute / midpoint))


def _to_free(curve: Curve, ceiling: float) -> np.ndarray:
    """Parameters without bounds: logit of the height, log B, log C_mid."""
    height = np.clip((curve.asymptote - curve.start) / (ceiling - curve.start), 1e-12, 1 - 1e-12)
    return np.array([np.log(height / (1 - height)), np.log(curve.efficiency), np.log(curve.midpoint)])


def _from_free(theta: np.ndarray, start: float, ceiling: float) -> Curve:
    height = 1 / (1 + np.exp(-theta[0]))
    efficiency, midpoint = float(np.exp(min(theta[1], 3.0))), float(np.exp(theta[2]))
    return Curve(start, float(start + (ceiling - start) * height), efficiency, midpoint)


def _slopes(theta: np.ndarray, x: np.ndarray, start: float, ceiling: float) -> np.ndarray:
    curve = _from_free(theta, start, ceiling)
    reach = (curve.asymptote - start) / (ceiling - start)
    distance = np.log(x / curve.midpoint)
    gain = _gain(x, curve.efficiency, curve.midpoint)
    bend = (curve.asymptote - start) * gain * (1 - gain) * curve.efficiency
    return np.stack([(ceiling - start) * reach * (1 - reach) * gain, bend * distance, -bend], axis=1)
