"""Several processes that are one server: settings or a policy that one of them takes up, the others take up soon.

A file that all of them see holds a mark, which changes with each; whoever has changed it does not hear of it.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from hanok.artefacts import write_atomic


class Together:
    """Args: file: the same for all; there need be none yet."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = self._read()

    def announce(self) -> None:
        """To the others. The folder is made anew where a cleaner of temporary files took it, as it was empty."""
        self._known = uuid.uuid4().hex
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._file, self._known)

    def heard(self) -> bool:
        """Whether another has announced something since the last look."""
        before, self._known = self._known, self._read()
        return self._known != before

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
