"""The database: opened here; what was asked and answered, and what people thought of it.

SQLite in one file, or PostgreSQL by a URL; several processes may share it. A call that has returned is on the disk:
`kill -9` and power failure lose nothing that was acknowledged.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, case, func, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from hanok.errors import HanokError, InputError
from hanok.store.connection import Place, connect, is_url, reading, writing
from hanok.store.migrate import migrate
from hanok.store.review.items import Item, add_items, question_in
from hanok.store.schema import DEFAULT_TENANT, feedback, requests
from hanok.store.tenancy import check_may_write, may_write

FILE_NAME = "feedback.sqlite"
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One request and its answers (one assistant message a sample)."""

    request_id: str
    model_hash: str
    messages: Sequence[Message]
    answers: Sequence[Message]
    tools: Sequence[Any] | None = None
    tenant: str = DEFAULT_TENANT
    owner: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """A judgement. `messages` ends with the answer that was judged; `correction` is what it should have been; `owner`: id of
    the person or key that gave it, with whom it is deleted."""

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
    tenant: str = DEFAULT_TENANT
    owner: str = ""

    def __post_init__(self) -> None:
        if self.rating not in (1, -1):
            raise InputError(f"rating = {self.rating!r}", remedy="1 for good, -1 for bad")


class Store:
    """Open with `Store(place)`, close when done. Safe to call from several threads.

    Args:
        place: a file of SQLite, or the URL of a PostgreSQL database. Its tables are made or brought to this version.
    """

    def __init__(self, place: Place) -> None:
        self.path = None if is_url(place) else Path(place)
        self._engine = connect(place)
        self.name = str(self.path or self._engine.url.render_as_string(hide_password=True))
        try:
            self.migrated = migrate(self._engine, name=self.name)
        except (DatabaseError, OperationalError) as error:
            self._engine.dispose()
            raise InputError(
                f"{self.name} cannot be used as a database ({error.orig})",
                remedy="check that the folder can be written and that the file is a SQLite database"
                if self.path
                else "check the URL, that the server runs, and that the user may make tables",
            ) from error
        except HanokError:
            self._engine.dispose()
            raise
        self._writer, self._reader = writing(self._engine), reading(self._engine)

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    def read(self) -> AbstractContextManager[Connection]:
        """A connection whose statements see one state of the tables."""
        return self._reader.begin()

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that nobody else's writing comes between (in PostgreSQL: lock the rows); durable when it has ended."""
        return self._writer.begin()

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
        """Keep a request so that feedback can refer to it by its id; nothing if its tenant or person was deleted meanwhile."""
        row = {
            "request_id": answered.request_id, "created": time.time(), "model_hash": answered.model_hash,
            "messages": list(answered.messages), "tools": answered.tools and list(answered.tools),
            "answer": list(answered.answers), "tenant": answered.tenant,
            "owner": answered.owner,
        }  # fmt: skip
        with self.write() as connection:
            if may_write(connection, answered.tenant, answered.owner):
                connection.execute(insert(requests), row)

    def find_request(self, request_id: str, *, tenant: str | None = None) -> Answered | None:
        """None too if it is another tenant's than the one named."""
        wanted = select(requests).where(requests.c.request_id == request_id)
        if tenant is not None:
            wanted = wanted.where(requests.c.tenant == tenant)
        with self.read() as connection:
            row = connection.execute(wanted).mappings().first()
        if row is None:
            return None
        return Answered(
            request_id=row["request_id"], model_hash=row["model_hash"], messages=row["messages"],
            answers=row["answer"], tools=row["tools"], tenant=row["tenant"], owner=row["owner"],
        )  # fmt: skip

    def add_feedback(self, given: Feedback, *, reviewers: int = 1) -> str:
        """Returns the id of the row, once it is durable, and in the queue for so many reviewers to agree on.

        Raises:
            InputError: the tenant or the person was deleted.
        """
        row = {
            "id": given.id or f"fb-{uuid.uuid4().hex}", "created": given.created or time.time(),
            "request_id": given.request_id, "model_hash": given.model_hash, "messages": list(given.messages),
            "tools": given.tools and list(given.tools), "rating": given.rating, "correction": given.correction,
            "reason": given.reason, "user": given.user, "tenant": given.tenant, "owner": given.owner,
        }  # fmt: skip
        item = Item(
            kind="feedback", source=row["id"], created=row["created"], tenant=given.tenant, owner=given.owner,
            request_id=given.request_id, model_hash=given.model_hash, title=question_in(given.messages), required=reviewers,
        )  # fmt: skip
        with self.write() as connection:
            check_may_write(connection, given.tenant, given.owner)
            connection.execute(insert(feedback), row)
            add_items(connection, [item])
        return row["id"]

    def find_feedback(self, identifier: str) -> Feedback | None:
        with self.read() as connection:
            row = connection.execute(select(feedback).where(feedback.c.id == identifier)).mappings().first()
        return None if row is None else Feedback(**row)

    def count_ratings(self, model_hash: str, *, since: float, until: float | None = None) -> tuple[int, int]:
        """Likes, and all ratings, of one model's answers."""
        c = feedback.c
        liked = func.coalesce(func.sum(case((c.rating == 1, 1), else_=0)), 0)
        wanted = select(liked, func.count()).where(c.model_hash == model_hash, c.created >= since)
        if until is not None:
            wanted = wanted.where(c.created <= until)
        with self.read() as connection:
            row = connection.execute(wanted).one()
        return int(row[0]), int(row[1])

    def read_feedback(self, *, tenant: str | None = None) -> Iterator[Feedback]:
        """All of it, or one tenant's; oldest first."""
        wanted = select(feedback).order_by(feedback.c.created, feedback.c.id)
        if tenant is not None:
            wanted = wanted.where(feedback.c.tenant == tenant)
        with self.read() as connection:
            for row in connection.execute(wanted).mappings():
                yield Feedback(**row)


def feedback_file(model_dir: Path) -> Path:
    """Where feedback on a served model is kept: in its run (the nearest folder above with a `run.json`), else beside it."""
    return (run_folder(model_dir) or model_dir.absolute().parent) / FILE_NAME


def run_folder(model_dir: Path) -> Path | None:
    """The run that a model directory lies in; None for a model of another origin."""
    return next((folder for folder in model_dir.absolute().parents if (folder / "run.json").is_file()), None)
