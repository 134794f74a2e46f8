"""`metrics.jsonl`: one line a step and one a validation, deterministic but for the fields under `time.`.

A checkpoint stands for all lines up to its step. Resuming cuts the file there, so no line is doubled or missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts import append_jsonl, fsync_file, write_atomic
from hanok.reporting import log


class MetricsLog:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, row: Mapping[str, Any]) -> None:
        append_jsonl(self.path, row)

    def flush(self) -> None:
        """Make the lines durable: called before the checkpoint that stands for them."""
        if self.path.exists():
            fsync_file(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines; a line cut by a kill is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def cut_to(self, step: int) -> None:
        """Keep the lines of the first `step` steps."""
        rows = [row for row in self.rows() if row["step"] <= step]
        steps = sum("loss" in row for row in rows)
        if steps != step:
            log.warning("%s: %d of %d lines of finished steps are there", self.path, steps, step)
        if rows or self.path.exists():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomic(self.path, text)
