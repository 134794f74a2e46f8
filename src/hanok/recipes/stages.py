"""A run: stages in order, each from artefacts to an artefact, each done once.

A stage is done when its key (its resolved configuration and the hashes of what it reads) stands in `run.json` and its
artefact on disk still has the recorded hash. So a changed recipe redoes just the stages that it changes and those
that read from them, and a killed run goes on at its stage; inside training, the training room resumes at its
last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hanok
from hanok.artefacts import Artefact, append_jsonl, open_artefact, write_json
from hanok.errors import ArtefactError
from hanok.reporting import log, table

RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step.

    Args:
        name: its folder under the run.
        config: its resolved configuration as plain JSON values.
        reads: role -> name of an earlier stage.
        external: role -> directory outside the run that it reads (hashed into the key).
        make: writes the artefact below `out` and returns it.
        keeps_partial: what lies in `out` from an interrupted attempt with the same key is for `make` to resume.
        summary: metric name -> value to show when done.
    """

    name: str
    config: Mapping[str, Any]
    make: Callable[[Path], Artefact]
    reads: Sequence[str] = ()
    keeps_partial: bool = False
    summary: Callable[[Artefact], Mapping[str, Any]] = field(default=lambda artefact: dict(artefact.metrics))


def run_stages(stages: Sequence[Stage], *, run: Path, recipe: Mapping[str, Any]) -> dict[str, Artefact]:
    """Bring every stage up to date and return its artefact by name."""
    run.mkdir(parents=True, exist_ok=True)
    state = _read_state(run)
    state |= {
        "format": 1,
        "name": run.name,
        "recipe": recipe,
        "code": hanok.__version__,
        "versions": _versions(),
    }
    done: dict[str, Artefact] = {}
    for number, stage in enumerate(stages, 1):
        key = _key(stage, done)
        artefact = _up_to_date(state["stages"].get(stage.name), key, run)
        title = f"[{number}/{len(stages)}] {stage.name}"
        if artefact is None:
            artefact = _make(stage, key, run=run, state=state, title=title)
        else:
            log.info("%s: up to date", title)
        done[stage.name] = artefact
    return done


def _make(stage: Stage, key: str, *, run: Path, state: dict[str, Any], title: str) -> Artefact:
    out = run / stage.name
    record = state["stages"].get(stage.name, {})
    same_attempt = record.get("key") == key
    if out.exists() and not (stage.keeps_partial and same_attempt):
        log.info(
            "%s: its settings or inputs changed, making it anew", title
        ) if record and not same_attempt else None
        shutil.rmtree(out)
    state["stages"][stage.name] = {"key": key, "config": dict(stage.config), "state": "running"}
    write_json(run / RUN_FILE, state)
    log.info("%s: %s", title, "going on where it stopped" if same_attempt and out.exists() else "starting")
    start = time.monotonic()
    artefact = stage.make(out)
    seconds = time.monotonic() - start
    summary = stage.summary(artefact)
    place = os.path.relpath(artefact.path, run)
    state["stages"][stage.name] |= {
        "state": "done", "artefact": place, "hash": artefact.hash, "seconds": round(seconds, 1), "metrics": summary,
    }  # fmt: skip
    write_json(run / RUN_FILE, state)
    append_jsonl(run / "metrics.jsonl", {"stage": stage.name, **summary, "time.seconds": round(seconds, 2)})
    scalars = [(name, value) for name, value in summary.items() if isinstance(value, (int, float, str))]
    table(f"{title}: done in {_clock(seconds)}", ("measure", "value"), scalars[:14])
    return artefact


def _up_to_date(record: Mapping[str, Any] | None, key: str, run: Path) -> Artefact | None:
    """The artefact of a finished stage. A damaged one is an error, never silently remade."""
    if record is None or record.get("state") != "done" or record["key"] != key:
        return None
    path = run / record["artefact"]
    if not path.exists():
        return None
    artefact = open_artefact(path)
    if artefact.hash != record["hash"]:
        raise ArtefactError(
            f"{path} is not the artefact that run.json recorded",
            remedy="delete the directory to make it anew",
        )
    return artefact


def _key(stage: Stage, done: Mapping[str, Artefact]) -> str:
    content = {"config": stage.config, "reads": {name: done[name].hash for name in stage.reads}}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _read_state(run: Path) -> dict[str, Any]:
    file = run / RUN_FILE
    if not file.is_file():
        return {"stages": {}}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        return state if isinstance(state["stages"], dict) else {"stages": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{file} is not readable ({error})", remedy="restore it, or remove the run's directory"
        ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "numpy", "tokenizers", "polars", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
