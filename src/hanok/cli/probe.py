"""`hanok guard train-probe` and `hanok guard test-probe`: the second stage of the detector, on a model's own hidden vectors."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.reporting import log, table

if TYPE_CHECKING:
    from hanok.guard.probe import Vectors
    from hanok.guard.second_training import TwoStages


def train(
    rows: Path, model: Path, out: Path, name: str = "probe", task: str | None = None, sets: tuple[str, ...] = (),
    layers: tuple[int, ...] = (), false_alarms: float = 0.02, penalty: float = 1e-2, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Train a probe on what a model makes of labelled rows; the detector of `hanok guard train` on the same rows is its first
    stage. The threshold is set for both together, on rows that neither was trained on.

    Args:
        rows: JSON lines of {text, label 0|1, group, set?, language?}.
        model: directory or run; the probe serves with these very weights.
        out: directory for NAME.safetensors.
        name: of the probe.
        task: only rows of this "task".
        sets: only rows of these sets.
        layers: after which blocks, from 0; -1: the final norm. By default half-way and -1.
        false_alarms: share of benign rows that both stages together may flag; measured by five folds over groups.
        penalty: on the probe's weights.
        seed: of the disguises that the first stage's training adds.
    """
    from hanok.guard.second_training import fit_probe, read_vectors
    from hanok.guard.training import read_rows

    read = read_rows(rows, sets=frozenset(sets), task=task)
    with _vectors(model) as (vectors, depth):
        chosen = layers or (depth // 2 - 1, -1)
        found, per_row = _timed(lambda: read_vectors(read, vectors, chosen), len(read))
        probe, stages = fit_probe(
            name, read, found, model=vectors.model, layers=chosen, false_alarms=false_alarms, seed=seed, penalty=penalty
        )  # fmt: skip
    probe.save(out)
    flagged = stages.flagged(probe.band, probe.threshold)
    caught = float(flagged[[row.label == 1 for row in read]].mean())
    asked = float(((stages.first_T >= probe.band[0]) & (stages.first_T <= probe.band[1])).mean())
    facts = [
        ("layers", ", ".join(map(str, chosen))), ("band of the first stage", f"{probe.band[0]:.2f} to {probe.band[1]:.2f}"),
        ("rows within it", f"{asked:.1%}"), ("threshold", f"{probe.threshold:.2f}"), ("attacks found", f"{caught:.1%}"),
        ("milliseconds a row", f"{1000 * per_row:.1f}"),
    ]  # fmt: skip
    table(f"{name}: rows that it did not see, {false_alarms:.1%} false alarms", ("", ""), facts)
    return {
        "probe": str(out / f"{name}.safetensors"), "model": probe.model, "layers": list(chosen), "band": list(probe.band),
        "threshold": probe.threshold, "found": caught, "asked": asked, "rows": len(read), "seconds_a_row": per_row,
    }  # fmt: skip


def compare(
    rows: Path, model: Path, style: str = "technique", task: str | None = None, sets: tuple[str, ...] = (),
    layers: tuple[int, ...] = (), false_alarms: tuple[float, ...] = (0.01, 0.02), penalty: float = 1e-2, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What a probe adds to the n-grams on attacks of styles that neither was trained on: each style is left out in turn.

    Args:
        rows: as `hanok guard train-probe` takes them.
        model: directory or run.
        style: the field of a row that names the style of an attack.
        task: only rows of this "task".
        sets: only rows of these sets.
        layers: as `hanok guard train-probe` takes them.
        false_alarms: shares of benign rows that may be flagged; each sets the thresholds of every column anew.
        penalty: on the probe's weights.
        seed: of the disguises that the first stage's training adds.
    """
    from hanok.guard.second_training import both_stages, read_vectors
    from hanok.guard.training import fold_of, read_rows

    read = read_rows(rows, sets=frozenset(sets), task=task, style=style)
    styles = sorted({row.style for row in read if row.label})
    folds = [
        styles.index(row.style) if row.label else fold_of(f"{row.set}{row.group}", len(styles))
        for row in read
    ]  # benign rows in as many, by group
    with _vectors(model) as (vectors, depth):
        chosen = layers or (depth // 2 - 1, -1)
        found, per_row = _timed(lambda: read_vectors(read, vectors, chosen), len(read))
    stages = both_stages(read, found, layers=chosen, seed=seed, penalty=penalty, folds=folds)
    print(f"layers {', '.join(map(str, chosen))}: {1000 * per_row:.1f} ms a row", file=sys.stderr)
    result: dict[str, Any] = {"layers": list(chosen), "seconds_a_row": per_row, "rates": {}}
    for rate in false_alarms:
        lines = list(_by_style(stages, styles, rate))
        table(f"styles that were not trained on, {rate:.1%} false alarms", _COLUMNS, lines)
        result["rates"][f"{rate:g}"] = [dict(zip(_COLUMNS, line, strict=True)) for line in lines]
    return result


_COLUMNS = ("style", "attacks", "n-grams", "probe alone", "both", "gained", "lost")


def _by_style(stages: TwoStages, styles: Sequence[str], rate: float) -> Iterator[tuple[str, ...]]:
    """Every column has its own threshold, at the same false alarms."""
    import numpy as np

    from hanok.guard.second_training import band_of, threshold_of
    from hanok.guard.training import threshold_for

    honest_T = np.array([not row.label for row in stages.rows])
    band = band_of(stages)
    alone = [
        scores_T > threshold_for(scores_T[honest_T].tolist(), rate)
        for scores_T in (stages.first_T, stages.second_T)
    ]
    both_T = stages.flagged(band, threshold_of(stages, band, rate))
    for style in (*styles, ""):
        of_T = np.array([bool(row.label) and style in ("", row.style) for row in stages.rows])
        shares = [f"{flags[of_T].mean():.1%}" for flags in (*alone, both_T)]
        gained, lost = (both_T & ~alone[0])[of_T].sum(), (alone[0] & ~both_T)[of_T].sum()
        yield style or "all", str(of_T.sum()), *shares, str(gained), str(lost)


def _timed(work: Any, count: int) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), (time.perf_counter() - began) / count


@contextmanager
def _vectors(model: Path) -> Iterator[tuple[Vectors, int]]:
    """Of a model as the server would hand them over, and how many layers it has."""
    from hanok.artefacts import open_artefact
    from hanok.engine.generator import LocalEngine
    from hanok.recipes.runs import servable_model
    from hanok.server.hidden_vectors import ServedVectors
    from hanok.server.models import Served

    directory = servable_model(model)
    engine = LocalEngine(directory, weights="float32")
    try:
        log.info("reading the rows with %s", directory)
        yield (
            ServedVectors(Served(directory.name, engine, open_artefact(directory).hash)),
            engine.config.num_layers,
        )
    finally:
        engine.close()
