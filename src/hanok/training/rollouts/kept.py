"""Rows that a run appends as it goes, by the number of a step or a roll-out, and takes back where it goes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hanok.artefacts import append_jsonl, write_atomic


class KeptRows:
    """Args: by: the column that numbers them. each: rows of one number at most; None: all."""

    def __init__(self, file: Path, *, by: str, each: int | None = None) -> None:
        self.file, self._by, self._each, self._is_cut = file, by, each, False

    def again(self) -> None:
        """The run went back; what lies behind the number that is kept next came from a run that was cut off."""
        self._is_cut = False

    def keep(self, number: int, rows: list[dict[str, Any]]) -> None:
        if not self._is_cut and self.file.exists():
            kept = [row for row in self.rows() if row[self._by] < number]
            write_atomic(self.file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        self._is_cut = True
        for row in rows[: self._each]:
            append_jsonl(self.file, {self._by: number, **row})

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines; one that was cut, perhaps within a character, ends them."""
        found: list[dict[str, Any]] = []
        text = self.file.read_text(encoding="utf-8", errors="replace") if self.file.exists() else ""
        for line in text.split("\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found
