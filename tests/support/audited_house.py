"""A server in this process under a policy, with people, keys and an audit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from hanok.guard.policy import parse_policy
from hanok.guard.rulebook import Guard
from hanok.server.app import create_app, services_of
from hanok.server.auditing.open import end_audit, open_audit
from hanok.server.identity.people import open_people
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.store.audit.reader import Reader, Wanted
from hanok.store.database import Store


class Audited:
    def __init__(self, services: Any, http: TestClient, model: str) -> None:
        self.services, self.http, self.model = services, http, model

    def entries(self, kind: str) -> list[dict[str, Any]]:
        log = self.services.directory.trail.server_log
        log.checkpoint().result(10)
        with Reader(log.place) as reader:
            return reader.list(Wanted(kind=kind), limit=50)


@contextmanager
def audited_house(
    server: Any, model_dir: Path, folder: Path, policy: str, settings: ServeSettings = ServeSettings()
) -> Iterator[tuple[Any, TestClient]]:
    """Its services, and a client of this machine. Args: server: whatever has an engine."""
    with Store(folder / "store.sqlite") as store:
        people = open_people(store, host="127.0.0.1")
        people.directory.trail.log = open_audit(settings, folder / "store.sqlite")
        services = services_of(
            server.engine, model_dir, store, people=people, guard=Guard(parse_policy(policy)),
            operations=Operations(settings),
        )  # fmt: skip
        with TestClient(
            create_app(services), base_url="http://127.0.0.1:8080", client=("127.0.0.1", 50_000)
        ) as http:
            yield services, http
        services.admission.ledger.flush()  # type: ignore[attr-defined]
        end_audit(people.directory.trail)
