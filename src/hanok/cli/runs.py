"""`hanok runs list | compare | prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from hanok.errors import ConfigError
from hanok.improvement.accepted import improvements
from hanok.recipes import runs
from hanok.reporting import table

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]


def list_runs(directory: Path = Path("runs")) -> dict[str, Any]:
    """Runs on this disk with their state, size and results.

    Args:
        directory: the folder that holds the runs.
    """
    found = runs.find_runs(directory)
    rows = [
        {
            "run": run.path.name, "state": run.state, "minutes": round(run.seconds / 60, 1),
            "megabytes": round(run.bytes / 1e6, 1), "improvements": _improvements(run), **_headline(run),
        }
        for run in found
    ]  # fmt: skip
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["run"]
    table(
        f"{len(found)} runs in {directory}",
        columns,
        [[row.get(column) for column in columns] for row in rows],
    )
    return {"runs": rows}


def _improvements(run: runs.RunInfo) -> str:
    done = improvements(run.path)
    withdrawn = sum(one.accepted and one.withdrawn is not None for one in done)
    accepted = f"{sum(one.accepted for one in done)} of {len(done)} accepted" if done else "none"
    return f"{accepted}, {withdrawn} withdrawn since" if withdrawn else accepted


def compare(paths: Runs) -> dict[str, Any]:
    """Runs side by side: the settings that differ and all results.

    Args:
        paths: two or more run folders.
    """
    if len(paths) < 2:
        raise ConfigError(f"{len(paths)} run given", remedy="name two or more run folders")
    chosen = [runs.read_run(path) for path in paths]
    names = [run.path.name for run in chosen]
    settings, measured = runs.differing_settings(chosen), runs.results(chosen)
    table("settings that differ", ["setting", *names], [[key, *values] for key, values in settings])
    table("results", ["measure", *names], [[key, *values] for key, values in measured])
    return {"runs": names, "settings": dict(settings), "results": dict(measured)}


def prune(
    path: Annotated[Path, tyro.conf.Positional],
    keep: int = 1,
    budget_mb: float | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Delete checkpoints of a run; the servable model and the reports stay.

    Args:
        path: the run folder.
        keep: newest checkpoints to keep per stage.
        budget_mb: then delete the oldest until the whole run is at most this large.
        dry_run: only say what would go.
    """
    if keep < 0:
        raise ConfigError(f"keep = {keep}", remedy="it must be 0 or more")
    run = runs.read_run(path)
    doomed = runs.checkpoints_to_prune(
        run, keep=keep, budget_bytes=None if budget_mb is None else int(budget_mb * 1e6)
    )
    freed = 0 if dry_run else sum(runs.delete_checkpoint(checkpoint) for checkpoint in doomed)
    names = [str(checkpoint.relative_to(path)) for checkpoint in doomed]
    title = (
        f"would delete {len(names)} checkpoints"
        if dry_run
        else f"deleted {len(names)} checkpoints, {freed / 1e6:.1f} MB"
    )
    table(title, ("checkpoint",), [[name] for name in names])
    return {"checkpoints": names, "freed_bytes": freed, "dry_run": dry_run}


def _headline(run: runs.RunInfo) -> dict[str, Any]:
    metrics = run.stages.get("verify", {}).get("metrics", {})
    return (
        {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        if len(metrics) <= 8
        else {key: metrics[key] for key in list(metrics)[:6] if isinstance(metrics[key], (int, float))}
    )
