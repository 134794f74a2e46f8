"""The database: what was asked and answered, and what people thought of it.

SQLite in one file, one writing process. A call that has returned is on the disk: `kill -9` and power failure lose
nothing that was acknowledged.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from hanok.errors import InputError
from hanok.reporting import log
from hanok.store.schema import SCHEMA_VERSION, feedback, metadata, requests, schema_version

FILE_NAME = "feedback.sqlite"
_WAL_IS_SAFE = (
    3,
    51,
    3,
)  # earlier versions can lose a committed write-ahead log when two processes recover at once
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One request and its answers (one assistant message a sample)."""

    request_id: str
    model_hash: str
    messages: Sequence[Message]
    answers: Sequence[Message]
    tools: Sequence[Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """A judgement. `messages` ends with the answer that was judged; `correction` is what it should have been."""

    request_id: str
    model_hash: str
    messages: Sequence[Message]
    rating: int
    correction: str | None = None
    reason: str | None = None
    user: str = ""
    tools: Sequence[Any] | None = None
    id: str = ""
    created: float = 0.0

    def __post_init__(self) -> None:
        if self.rating not in (1, -1):
            raise InputError(f"rating = {self.rating!r}", remedy="1 for good, -1 for bad")


class Store:
    """Open with `Store(path)`, close when done. Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = _connect(path)
        try:
            self._prepare()
        except (DatabaseError, OperationalError) as error:
            self._engine.dispose()
            raise InputError(
                f"{path} cannot be used as a database ({error.orig})",
                remedy="check that the folder can be written and that the file is a SQLite database",
            ) from error

    @property
    def engine(self) -> Engine:
        """For the tables of other pages."""
        return self._engine

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def record_request(self, answered: Answered) -> None:
        """Keep a request so that feedback can refer to it by its id."""
        row = {
            "request_id": answered.request_id, "created": time.time(), "model_hash": answered.model_hash,
            "messages": list(answered.messages), "tools": answered.tools and list(answered.tools),
            "answer": list(answered.answers),
        }  # fmt: skip
        with self._engine.begin() as connection:
            connection.execute(insert(requests), row)

    def find_request(self, request_id: str) -> Answered | None:
        with self._engine.connect() as connection:
            row = (
                connection.execute(select(requests).where(requests.c.request_id == request_id))
                .mappings()
                .first()
            )
        if row is None:
            return None
        return Answered(
            request_id=row["request_id"], model_hash=row["model_hash"], messages=row["messages"],
            answers=row["answer"], tools=row["tools"],
        )  # fmt: skip

    def add_feedback(self, given: Feedback) -> str:
        """Returns the id of the row, once it is durable."""
        row = {
            "id": given.id or f"fb-{uuid.uuid4().hex}", "created": given.created or time.time(),
            "request_id": given.request_id, "model_hash": given.model_hash, "messages": list(given.messages),
            "tools": given.tools and list(given.tools), "rating": given.rating, "correction": given.correction,
            "reason": given.reason, "user": given.user,
        }  # fmt: skip
        with self._engine.begin() as connection:
            connection.execute(insert(feedback), row)
        return row["id"]

    def read_feedback(self) -> Iterator[Feedback]:
        """All of it, oldest first."""
        with self._engine.connect() as connection:
            for row in connection.execute(
                select(feedback).order_by(feedback.c.created, feedback.c.id)
            ).mappings():
                yield Feedback(**row)

    def _prepare(self) -> None:
        metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            version = connection.execute(select(schema_version.c.version)).scalar()
            if version is None:
                connection.execute(insert(schema_version), {"version": SCHEMA_VERSION})
            elif version > SCHEMA_VERSION:
                raise InputError(
                    f"{self.path} has tables of version {version}, this version of hanok knows {SCHEMA_VERSION}",
                    remedy="upgrade hanok",
                )


def feedback_file(model_dir: Path) -> Path:
    """Where feedback on a served model is kept: in its run (the nearest folder above with a `run.json`), else beside it."""
    return (run_folder(model_dir) or model_dir.absolute().parent) / FILE_NAME


def run_folder(model_dir: Path) -> Path | None:
    """The run that a model directory lies in; None for a model of another origin."""
    return next((folder for folder in model_dir.absolute().parents if (folder / "run.json").is_file()), None)


def _connect(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    wal = sqlite3.sqlite_version_info >= _WAL_IS_SAFE
    log.debug("SQLite %s: journal_mode=%s", sqlite3.sqlite_version, "WAL" if wal else "DELETE")

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine
