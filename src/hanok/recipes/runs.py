"""What lies under `runs/`: list, compare, prune."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.errors import InputError
from hanok.improvement.accepted import current_model
from hanok.recipes.stages import RUN_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """One run as its `run.json` tells it."""

    path: Path
    recipe: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    bytes: int

    @property
    def state(self) -> str:
        unfinished = [name for name, stage in self.stages.items() if stage.get("state") != "done"]
        return f"stopped in {unfinished[0]}" if unfinished else "done"

    @property
    def seconds(self) -> float:
        return sum(stage.get("seconds", 0.0) for stage in self.stages.values())


def read_run(path: Path) -> RunInfo:
    """Raises InputError where there is no run."""
    try:
        state = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        stages, recipe = state["stages"], state.get("recipe", {})
    except FileNotFoundError as error:
        raise InputError(f"no run at {path}", remedy="give a folder that `hanok run` made") from error
    except (ValueError, KeyError) as error:
        raise InputError(f"{path / RUN_FILE} is not readable ({error})", remedy="restore it") from error
    return RunInfo(path=path, recipe=recipe, stages=stages, bytes=_size(path))


def find_runs(directory: Path) -> list[RunInfo]:
    """All runs below `directory`, oldest first."""
    files = sorted(directory.glob(f"*/{RUN_FILE}"), key=lambda file: file.stat().st_mtime)
    return [read_run(file.parent) for file in files]


def differing_settings(runs: Sequence[RunInfo]) -> list[tuple[str, list[Any]]]:
    """Dotted keys of the resolved recipes whose values are not all equal, with each run's value."""
    flats = [_flatten(run.recipe) for run in runs]
    keys = sorted({key for flat in flats for key in flat})
    rows = [(key, [flat.get(key) for flat in flats]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def results(runs: Sequence[RunInfo]) -> list[tuple[str, list[Any]]]:
    """Every scalar that a stage reported, one row per measure."""
    flats = [
        {
            f"{name}.{key}": value
            for name, stage in run.stages.items()
            for key, value in stage.get("metrics", {}).items()
            if isinstance(value, (int, float))
        }
        for run in runs
    ]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    return [(key, [flat.get(key) for flat in flats]) for key in keys]


def checkpoints_to_prune(run: RunInfo, *, keep: int, budget_bytes: int | None) -> list[Path]:
    """Checkpoints beyond the newest `keep` of each stage, then the oldest until the run fits the budget.

    The newest checkpoint of a stage that is not done is never among them: it is what the run resumes from.
    """
    by_stage = {
        name: sorted((run.path / name / "checkpoints").glob("step-*"), key=lambda path: path.name)
        for name in run.stages
    }
    doomed: list[Path] = []
    left: list[Path] = []
    for name, paths in by_stage.items():
        finished = run.stages[name].get("state") == "done"
        kept = max(keep, 0 if finished else 1)
        cut = len(paths) - kept if len(paths) > kept else 0
        doomed += paths[:cut]
        left += paths[cut:] if finished else paths[cut:-1]
    if budget_bytes is not None:
        size = run.bytes - sum(map(_size, doomed))
        for path in sorted(left, key=lambda path: path.stat().st_mtime):
            if size <= budget_bytes:
                break
            doomed.append(path)
            size -= _size(path)
    return doomed


def delete_checkpoint(path: Path) -> int:
    """Delete one checkpoint, its manifest first, so that a half-deleted one is not mistaken for a whole. Bytes freed."""
    size = _size(path)
    (path / "artefact.json").unlink(missing_ok=True)
    shutil.rmtree(path)
    return size


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = ((f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items())
        return {k: v for name, item in items for k, v in _flatten(item, name).items()}
    return {prefix: value}


def servable_model(path: Path) -> Path:
    """The model of a run's newest accepted improvement, else its `model`; or `path` itself if it is a model directory.

    Raises:
        InputError: neither.
    """
    if (path / RUN_FILE).is_file() and (path / "model").is_dir():
        return current_model(path)
    for candidate in (path / "model", path):
        if (candidate / "config.json").is_file():
            return candidate
    raise InputError(
        f"no model in {path}", remedy="give a model directory or a finished run; `hanok runs list` shows them"
    )
