"""From labelled rows to a probe of one model, its threshold, and the band in which it is asked.

Both stages are judged by folds over groups. Most honest rows are below the band's lower end, and hardly any above its upper end.
The threshold is then set for the two together.

    T rows    L layers    D model width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hanok.errors import InputError
from hanok.guard.probe import Probe, Vectors, train_probe
from hanok.guard.training import Row, cross_validate, fold_of, threshold_for
from hanok.guard.views import views

_FOLDS = 5
_BELOW, _ABOVE = 0.3, 0.002  # share of honest rows above the band's lower and upper end
_BATCH = 16  # rows that a model reads together


@dataclass(frozen=True, slots=True)
class TwoStages:
    """Scores [T] of rows that neither stage was trained on; `mixed_T`: of both, in a mixture not found on them either."""

    rows: Sequence[Row]
    first_T: np.ndarray
    second_T: np.ndarray
    mixed_T: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return np.array([row.label for row in self.rows])

    def flagged(self, band: tuple[float, float], threshold: float) -> np.ndarray:
        """[T] bool: what `hanok.guard.second_look` would find."""
        low, high = band
        within_T = (self.first_T >= low) & (self.first_T <= high)
        return (self.first_T > high) | (within_T & (self.mixed_T > threshold))


def read_vectors(rows: Sequence[Row], vectors: Vectors, layers: Sequence[int]) -> np.ndarray:
    """[T, L, 2, D] of the rows in their normal form."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].text))
    texts = [views(row.text)[0].text for row in rows]
    found: dict[int, np.ndarray] = {}
    for place in range(0, len(order), _BATCH):
        together = order[place : place + _BATCH]
        found |= dict(zip(together, vectors.of([texts[n] for n in together], layers), strict=True))
    return np.stack([found[number] for number in range(len(rows))])


def both_stages(
    rows: Sequence[Row], vectors_TL2D: np.ndarray, *, layers: Sequence[int], seed: int = 0, penalty: float = 1e-2,
    folds: Sequence[int] | None = None,
) -> TwoStages:  # fmt: skip
    """Args: folds: of each row; by its group unless told."""
    placed = np.asarray(
        [fold_of(f"{row.set}{row.group}", _FOLDS) for row in rows] if folds is None else folds
    )
    first = cross_validate(rows, seed=seed, folds=placed.tolist())
    first_T, second_T = np.empty(len(rows)), np.empty(len(rows))
    by_row = {id(one.row): one.score for one in first}
    first_T[:] = [by_row[id(row)] for row in rows]
    labels_T = np.array([row.label for row in rows])
    for fold in sorted(set(placed.tolist())):
        known_T = placed != fold
        probe = train_probe(
            "fold",
            vectors_TL2D[known_T],
            labels_T[known_T].tolist(),
            layers=layers,
            model="",
            penalty=penalty,
        )
        second_T[~known_T] = probe.scores(vectors_TL2D[~known_T])
    return mixed(rows, first_T, second_T, placed)


def mixed(
    rows: Sequence[Row], first_T: np.ndarray, second_T: np.ndarray, folds_T: np.ndarray
) -> TwoStages:  # fmt: skip
    """Each fold in the mixture of the others."""
    labels_T, mixed_T = np.array([row.label for row in rows]), np.empty(len(rows))
    for fold in sorted(set(folds_T.tolist())):
        known_T = folds_T != fold
        first, own = mix_of(first_T[known_T], second_T[known_T], labels_T[known_T])
        mixed_T[~known_T] = first * first_T[~known_T] + own * second_T[~known_T]
    return TwoStages(rows, first_T, second_T, mixed_T)


def mix_of(first_T: np.ndarray, second_T: np.ndarray, labels_T: np.ndarray) -> tuple[float, float]:
    """What each score counts for: logistic regression on the two, neither below 0. A probe that knows nothing gets nothing."""
    scores_T2 = np.stack([first_T, second_T], axis=1)
    as_vectors = scores_T2[:, None, :, None]  # of one layer, one number for the mean and one for the last
    found = train_probe("mix", as_vectors, labels_T.tolist(), layers=(0,), model="", penalty=1e-4)
    first, own = (max(0.0, float(one)) for one in found.weights_L2D.reshape(2))
    return (first, own) if first or own else (1.0, 0.0)


def band_of(stages: TwoStages) -> tuple[float, float]:
    honest = [float(score) for score, row in zip(stages.first_T, stages.rows, strict=True) if not row.label]
    low, high = threshold_for(honest, _BELOW), threshold_for(honest, _ABOVE)
    if low == high:
        raise InputError(
            f"{len(honest)} benign rows give no band",
            remedy="give some hundreds, of different length and style",
        )
    return low, high


def threshold_of(stages: TwoStages, band: tuple[float, float], false_alarms: float) -> float:
    """The lowest at which the two stages together flag at most this share of the benign rows."""
    low, high = band
    honest_T = np.array([not row.label for row in stages.rows])
    within_T = honest_T & (stages.first_T >= low) & (stages.first_T <= high)
    sure = int((honest_T & (stages.first_T > high)).sum())
    allowed = max(0, int(false_alarms * honest_T.sum() + 1e-9) - sure)
    ordered = np.sort(stages.mixed_T[within_T])[::-1]
    return float(ordered[allowed]) if allowed < len(ordered) else float(stages.mixed_T.min()) - 1.0


def fit_probe(
    name: str, rows: Sequence[Row], vectors_TL2D: np.ndarray, *, model: str, layers: Sequence[int], false_alarms: float,
    seed: int = 0, penalty: float = 1e-2,
) -> tuple[Probe, TwoStages]:  # fmt: skip
    """The probe of all rows, calibrated on the folds."""
    stages = both_stages(rows, vectors_TL2D, layers=layers, seed=seed, penalty=penalty)
    band = band_of(stages)
    labels = [row.label for row in rows]
    probe = train_probe(name, vectors_TL2D, labels, layers=layers, model=model, penalty=penalty)
    mix = mix_of(stages.first_T, stages.second_T, stages.labels)
    return replace(probe, band=band, mix=mix, threshold=threshold_of(stages, band, false_alarms)), stages
