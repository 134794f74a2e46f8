"""Which model of a run is served: its newest accepted improvement, else what the recipe made. Cheap to import.

`improve-NNN/improvement.json` says whether an improvement was accepted and on which model it rests; one that rests on
a model that the run has since made anew does not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import Withdrawal, open_artefact, withdrawal
from hanok.errors import ArtefactError
from hanok.reporting import log

RESULT = "improvement.json"
PATTERN = "improve-[0-9][0-9][0-9]"


@dataclass(frozen=True, slots=True)
class Improvement:
    """A finished improvement."""

    path: Path
    result: Mapping[str, Any]

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def accepted(self) -> bool:
        return bool(self.result["accepted"])

    @property
    def withdrawn(self) -> Withdrawal | None:
        """Whether it was taken out of service since."""
        return withdrawal(self.model)


def current_model(run: Path) -> Path:
    """What is served for a run folder: `run/model`, or the model of its newest accepted improvement."""
    root = run / "model"
    finished = [one for one in improvements(run) if one.result["root"] == model_hash(root)]
    for one in reversed(finished):
        if one.accepted and (note := one.withdrawn) is not None:
            log.info("%s: %s was accepted and then %s", run, one.path.name, note)
            continue
        if one.accepted:
            log.info("%s: the model of %s, its newest accepted improvement", run, one.path.name)
            return one.model
        log.info("%s: %s was not accepted (%s)", run, one.path.name, "; ".join(one.result["reasons"]))
    return root


def improvements(run: Path) -> list[Improvement]:
    """Finished ones, oldest first.

    Raises:
        ArtefactError: an unreadable result.
    """
    found = []
    for file in sorted(run.glob(f"{PATTERN}/{RESULT}")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            missing = {"accepted", "reasons", "root", "base", "model", "judgements", "config"} - set(result)
        except (ValueError, TypeError) as error:
            raise ArtefactError(f"{file} is not readable ({error})", remedy="delete its folder") from error
        if missing:
            raise ArtefactError(f"{file} lacks {', '.join(sorted(missing))}", remedy="delete its folder")
        found.append(Improvement(file.parent, result))
    return found


def model_hash(model: Path) -> str:
    """As its manifest has it; whoever loads the weights verifies them."""
    return open_artefact(model, verify=False).hash
