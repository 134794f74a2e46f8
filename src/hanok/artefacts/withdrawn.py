"""A model that was taken out of service, or failed beside another: a note beside its directory says so, and it is not chosen by
itself any more. The directory and its hash stay as they are.
"""

from __future__ import annotations

import time
from pathlib import Path

from hanok.artefacts.files import write_json


def withdraw(directory: Path, why: str) -> None:
    """Nothing if the directory is gone."""
    if directory.is_dir():
        write_json(_note(directory), {"format": 1, "time": time.time(), "why": why})


def readmit(directory: Path) -> None:
    _note(directory).unlink(missing_ok=True)


def is_withdrawn(directory: Path) -> bool:
    return _note(directory).is_file()


def _note(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.withdrawn.json")
