"""Files that appear whole or not at all, and rows that are appended one line at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hanok.errors import ArtefactError, ConfigError


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_dir(path: Path) -> None:
    """Make a directory's entries durable (a rename is lost at power failure without it)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary sibling: readers see the old content or the new, never a part."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_once(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet, whole or not at all, and never over another's: two processes may want it at once."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        fsync_dir(path.parent)
    finally:
        draft.unlink()


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def sole_user(directory: Path, doing: str) -> Iterator[None]:
    """One process at a time works in `directory`; the lock goes with the process.

    Args:
        doing: what the process does there, for the message: "training".

    Raises:
        ConfigError: another process holds it.
    """
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process is {doing} in {directory}", remedy="wait for it or stop it"
            ) from error
        yield


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A row a line; for drafts, which appear whole by themselves."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_jsonl(path: Path, row: Mapping[str, Any], *, fsync: bool = False) -> None:
    """Append one row as one write, so that a killed process leaves at most one cut line."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode("utf-8"))
        if fsync:
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file.

    Raises:
        ArtefactError: a line that is not a JSON object, with its number.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ArtefactError(
                    f"{path}, line {number}: not JSON ({error.msg})", remedy="mend or delete the line"
                ) from error
            if not isinstance(row, dict):
                raise ArtefactError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
            yield row
