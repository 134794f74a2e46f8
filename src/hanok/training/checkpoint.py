"""Checkpoints: a loadable model directory with the training state beside it, whole or absent, checked before use.

    checkpoints/step-000123/   config.json, model.safetensors, tokenizer files: any reader of model directories loads it
        training/state.json            step, tokens, data cursor, policy, schedule
        training/state.safetensors     optimiser, moving average, RNG

Nothing is used before every file matches the manifest; a damaged checkpoint is passed over for the one before it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanok.artefacts import MANIFEST, Artefact, create_artefact, open_artefact, write_json
from hanok.errors import ArtefactError, CheckpointError, Interrupted
from hanok.reporting import log

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory whose files were found intact."""

    path: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path / "training" / "state.safetensors")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        keep: how many to keep; `max_bytes`: remove older ones sooner if they take more than this (never the newest).
    """

    def __init__(self, directory: Path, *, keep: int, max_bytes: float) -> None:
        self.directory = directory
        self._keep, self._max_bytes = keep, max_bytes

    def save(
        self,
        step: int,
        *,
        write_model: Callable[[Path], None],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        parents: Mapping[str, Artefact],
        made_by: Mapping[str, Any],
    ) -> Path:
        """Write one and then let go of what is no longer kept.

        Raises:
            Interrupted: the disk is full; earlier checkpoints are as they were.
        """
        path = self.path_of(step)
        with (
            disk_full_is_resumable(path),
            create_artefact(path, kind="checkpoint", parents=parents, step=made_by, overwrite=True) as draft,
        ):
            write_model(draft.path)
            (draft.path / "training").mkdir()
            save_file(
                {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()},
                draft.path / "training" / "state.safetensors",
            )
            write_json(draft.path / "training" / "state.json", state)
        self.prune()
        return path

    def path_of(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def clean(self) -> None:
        """Remove what a killed process left half-written. Only the run's one trainer may call this."""
        for leftover in self.directory.glob(".step-*.tmp"):
            log.info("removing %s, left by an interrupted save", leftover.name)
            shutil.rmtree(leftover, ignore_errors=True)
        for old in self.directory.glob(".step-*.old"):  # a checkpoint that was about to be replaced
            path = self.directory / old.name[1:].split(".")[0]
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(old, path)

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint; None if the run has none at all.

        Raises:
            CheckpointError: there are checkpoints and every one is damaged.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                return _open(path)
            except (ArtefactError, OSError, ValueError, KeyError) as error:
                log.warning("passing over a damaged checkpoint: %s", error)
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoints in {self.directory} is intact",
                remedy=f"restore one from a copy, or delete {self.directory} to start again",
            )
        return None

    def newest_regular(self) -> Checkpoint | None:
        """The newest that was saved by the interval, not because of a stop: what rolling back returns to."""
        regular = [path for path in self._paths() if _is_regular(path)]
        return _open(regular[-1]) if regular else None

    def drop_after(self, step: int) -> None:
        """Remove checkpoints newer than `step` (damaged ones that a resume passed over)."""
        for path in self._paths():
            if _step_of(path) > step:
                shutil.rmtree(path)

    def prune(self) -> None:
        paths = self._paths()
        kept = paths[-self._keep :]
        regular = [path for path in paths if _is_regular(path)][-1:]
        while len(kept) > 1 and sum(map(_bytes, {*kept, *regular})) > self._max_bytes:
            kept.pop(0)
        for path in paths:
            if path not in kept and path not in regular:
                shutil.rmtree(path)

    def _paths(self) -> list[Path]:
        found = [path for path in self.directory.glob("step-*") if path.is_dir()]
        return sorted(found, key=_step_of)


def _open(path: Path) -> Checkpoint:
    if not (path / MANIFEST).is_file():
        raise ArtefactError(f"{path} has no {MANIFEST}")
    open_artefact(path, kind="checkpoint")
    state = json.loads((path / "training" / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(path, state["step"], state)


@contextmanager
def disk_full_is_resumable(path: Path) -> Iterator[None]:
    """Turn "no space left" while writing into a stop that the same command resumes."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(path, error) from error
        raise
    except SafetensorError as error:
        if any(f"os error {number}" in str(error) for number in _FULL):
            raise _disk_full(path, error) from error
        raise


def _disk_full(path: Path, error: Exception) -> Interrupted:
    return Interrupted(
        f"cannot write {path}: {error}; what was saved before is intact: free some space and run the same command"
    )


def _step_of(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1


def _is_regular(path: Path) -> bool:
    try:
        return bool(json.loads((path / "training" / "state.json").read_text(encoding="utf-8"))["regular"])
    except (OSError, ValueError, KeyError):
        return False


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
