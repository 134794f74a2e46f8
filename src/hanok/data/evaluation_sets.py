"""Evaluation sets as plain texts, for decontamination: every string of every record, whatever its key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hanok.errors import ConfigError, InputError

_TEXT = (".txt", ".md", ".csv", ".tsv")
_ENDINGS = (".jsonl", ".json", ".parquet", *_TEXT)


def evaluation_texts(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of every record of the files, or of the readable files in the folders.

    Raises:
        ConfigError: a path that does not exist, or of a form that is not read.
        InputError: a file that cannot be parsed.
    """
    for path in paths:
        for file in _files(path):
            for number, record in enumerate(_records(file), 1):
                text = "\n".join(_strings(record))
                if text:
                    yield f"{file.name}:{number}", text


def _files(name: str) -> list[Path]:
    path = Path(name)
    if not path.exists() and "HANOK_DATA" in os.environ and not path.is_absolute():
        path = Path(os.environ["HANOK_DATA"]) / path
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS)
        if files:
            return files
        raise ConfigError(
            f"evaluation set {name}: no {', '.join(_ENDINGS)} in that folder", remedy="check the path"
        )
    if not path.is_file():
        raise ConfigError(f"evaluation set {name}: no such file", remedy="check the path, or set HANOK_DATA")
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"evaluation set {name}: not one of {', '.join(_ENDINGS)}", remedy="convert it")
    return [path]


def _records(file: Path) -> Iterator[Any]:
    ending = file.suffix.lower()
    try:
        if ending == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches():
                    yield from batch.to_pylist()
        elif ending == ".json":
            value = json.loads(file.read_text(encoding="utf-8"))
            yield from value if isinstance(value, list) else [value]
        else:
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line) if ending == ".jsonl" and line.strip() else line.strip()
    except (OSError, ValueError) as error:
        raise InputError(
            f"evaluation set {file}: cannot be read ({error})", remedy="mend or remove the file"
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
