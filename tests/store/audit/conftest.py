"""A log with rows, content and several checkpoints, and ways to change a file behind its back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hanok.store.audit.entry import Entry
from hanok.store.audit.keys import load_verifier
from hanok.store.audit.log import AuditLog, LogSettings
from hanok.store.audit.place import AuditPlace, audit_place
from hanok.store.audit.reader import Reader
from hanok.store.audit.verify import Report, verify

Look = Callable[..., Report]


@pytest.fixture
def place(tmp_path: Path) -> AuditPlace:
    return audit_place(tmp_path / "store.sqlite", mirror=tmp_path / "elsewhere")


@pytest.fixture
def written(place: AuditPlace) -> AuditPlace:
    """40 rows, every fourth with content; signed at 10, 20, 30 and 40."""
    with AuditLog(place, settings=LogSettings(checkpoint_seconds=3600)) as log:
        for number in range(40):
            content = {"text": f"말 {number}"} if number % 4 == 0 else None
            entry = Entry(
                kind="request", actor=f"u{number % 3}", tenant="t", facts={"number": number, "ms": 1.5}, content=content
            )  # fmt: skip
            log.append(entry, patient=True)
            if number % 10 == 9:
                log.checkpoint().result(10)
    return place


@pytest.fixture
def look() -> Look:
    def look(place: AuditPlace, *, outside: bool = True) -> Report:
        files = [path for path in (place.mirror,) if path is not None] if outside else []
        with Reader(place) as reader:
            return verify(reader, load_verifier(place.folder), outside=files)

    return look


@pytest.fixture
def change() -> Callable[..., None]:
    def change(place: AuditPlace, *statements: str | tuple[str, Any]) -> None:
        with closing(sqlite3.connect(str(place.log))) as connection, connection:
            for statement in statements:
                connection.execute(*([statement] if isinstance(statement, str) else statement))

    return change


@pytest.fixture
def open_log() -> Iterator[Callable[..., AuditLog]]:
    opened: list[AuditLog] = []

    def open_log(place: AuditPlace, **settings: Any) -> AuditLog:
        log = AuditLog(place, settings=LogSettings(**settings))
        opened.append(log)
        return log

    yield open_log
    for log in opened:
        log.close()
