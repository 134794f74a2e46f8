"""Models on trial beside the one that is served: which, for what share of the traffic, what became of it. Rows in, rows out.

They outlive the server: one that is started again goes on with a trial that runs, and serves what was promoted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import insert, or_, select, update

from hanok.store.database import Store
from hanok.store.schema import canaries

CanaryState = Literal["running", "promoted", "rolled_back"]
c = canaries.c


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """Args: model: name in the API. share: of conversations that the canary answers. counts: of both arms' answers."""

    model: str
    current_directory: str
    current_hash: str
    canary_directory: str
    canary_hash: str
    share: float
    auto_rollback: bool = True
    id: str = ""
    created: float = 0.0
    state: CanaryState = "running"
    ended: float | None = None
    ended_by: str | None = None
    why: str | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)


class Canaries:
    """Safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, canary: Canary) -> Canary:
        row = {**asdict(canary), "id": f"cn-{uuid.uuid4().hex}", "created": canary.created or time.time()}
        with self._store.write() as connection:
            connection.execute(insert(canaries), row)
        return Canary(**row)

    def change(self, identifier: str, **values: Any) -> None:
        with self._store.write() as connection:
            connection.execute(update(canaries).where(c.id == identifier).values(**values))

    def find(self, model: str) -> Canary | None:
        """The newest of a model."""
        found = self._select(c.model == model, limit=1)
        return found[0] if found else None

    def every(self, *, limit: int = 100) -> list[Canary]:
        """Newest first."""
        return self._select(limit=limit)

    def of_directory(self, directory: Path) -> Canary | None:
        """The newest in which a model directory was on either side and that still counts: it runs, or was promoted."""
        name = str(directory.resolve())
        either = or_(c.current_directory == name, c.canary_directory == name)
        found = self._select(either, c.state != "rolled_back", limit=1)
        return found[0] if found else None

    def _select(self, *where: Any, limit: int) -> list[Canary]:
        wanted = select(canaries).where(*where).order_by(c.created.desc(), c.id).limit(limit)
        with self._store.read() as connection:
            return [Canary(**row) for row in connection.execute(wanted).mappings()]
