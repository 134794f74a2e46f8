"""Questions to begin with, for the empty chat page: from the examination of the run that made the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanok.artefacts import read_jsonl
from hanok.store.database import run_folder

KINDS = ("fact", "comparison", "arithmetic", "fact")
LANGUAGES = ("ko", "en")
LONGEST = 60  # characters of an example; longer ones do not read at a glance


def example_questions(model_dir: Path) -> dict[str, list[str]]:
    """Language to questions, one of each kind and all of other types; empty where the run has no `questions.jsonl`."""
    run = run_folder(model_dir)
    file = None if run is None else run / "village" / "questions.jsonl"
    if file is None or not file.is_file():
        return {}
    rows = list(read_jsonl(file))
    return {language: list(_choose(rows, language)) for language in LANGUAGES}


def _choose(rows: list[dict[str, Any]], language: str) -> Iterator[str]:
    types: set[tuple[str, str]] = set()
    for kind in KINDS:
        fitting = [
            row for row in rows
            if row["kind"] == kind and row.get("language") == language and _plain(row) and (kind, row["type"]) not in types
        ]  # fmt: skip
        if fitting:  # neither curt nor long-winded
            row = sorted(fitting, key=_length)[len(fitting) // 3]
            types.add((kind, row["type"]))
            yield row["messages"][-1]["content"]


def _plain(row: Mapping[str, Any]) -> bool:
    """A single question about what training has asked, in a wording of training."""
    familiar = row["seen_template"] and row["pair"] in (None, "trained")
    return familiar and len(row["messages"]) == 1 and not row["tools"] and _length(row) <= LONGEST


def _length(row: Mapping[str, Any]) -> int:
    return len(row["messages"][-1]["content"])
