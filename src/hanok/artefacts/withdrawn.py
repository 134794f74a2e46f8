"""A model that was taken out of service, or failed beside another: a note beside its directory says so, and it is not chosen by
itself any more. The directory and its hash stay as they are.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hanok.artefacts.files import write_json
from hanok.errors import ArtefactError


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawal:
    """Args: time: seconds of the Unix epoch. by: who did it; "server": by itself."""

    time: float
    by: str
    why: str

    def __str__(self) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.time))
        return f"withdrawn on {moment} by {self.by or 'somebody'}" + (f": {self.why}" if self.why else "")


def withdraw(directory: Path, why: str, *, by: str) -> Withdrawal:
    """Nothing is written if the directory is gone."""
    note = Withdrawal(time=time.time(), by=by, why=why)
    if directory.is_dir():
        write_json(_note(directory), {"format": 1, **asdict(note)})
    return note


def readmit(directory: Path) -> None:
    _note(directory).unlink(missing_ok=True)


def withdrawal(directory: Path) -> Withdrawal | None:
    """Raises ArtefactError: the note cannot be read."""
    file = _note(directory)
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        return Withdrawal(time=float(note["time"]), by=str(note.get("by", "")), why=str(note["why"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ArtefactError(
            f"{file} cannot be read ({error})", remedy="delete it to serve the model again"
        ) from error


def _note(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.withdrawn.json")
