"""A server with a store of its own in front of the random model, in this process: quick to make, so each test has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient

from hanok.server.app import create_app, services_of
from hanok.server.identity.directory import Directory, Entry
from hanok.server.identity.management import Management
from hanok.server.identity.people import People, open_people
from hanok.server.services import Services
from hanok.store.database import Store


@dataclass(frozen=True)
class House:
    """`local`: somebody at this machine who shows nothing."""

    services: Services
    app: FastAPI
    local: TestClient
    model: str
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Directory:
        return self.services.directory

    @property
    def people(self) -> People:
        return self.services.people

    @property
    def management(self) -> Management:
        return self.directory.management

    def make_key(self, name: str = "bot", **values: Any) -> str:
        return self.management.create_key(name, **values)[1]

    def ask(
        self, key: str | None = None, *, method: str = "GET", path: str = "/v1/models", **options: Any
    ) -> Any:
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        self.directory._checked = float("-inf")  # as after half a second
        return self.local.request(method, path, headers=headers, **options)

    def chat(self, key: str | None = None, **options: Any) -> Any:
        body = {
            "model": self.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0,
            **options.pop("json", {}),
        }  # fmt: skip
        return self.ask(key, method="POST", path="/v1/chat/completions", json=body, **options)


@pytest.fixture
def make_house(server: Any, random_run: Path, tmp_path: Path) -> Iterator[Callable[..., House]]:
    with ExitStack() as held:

        def make(
            *,
            host: str = "127.0.0.1",
            place: Path | str | None = None,
            entry: Entry | None = None,
            **options: Any,
        ) -> House:
            store = held.enter_context(Store(place or tmp_path / "store.sqlite"))
            people = open_people(store, host=host, entry=entry)
            people.management.passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64)  # quick
            services = services_of(server.engine, random_run / "model", store, people=people, **options)
            held.callback(services.admission.ledger.flush)
            app = create_app(services)
            client = TestClient(
                app, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 50_000), raise_server_exceptions=False
            )  # fmt: skip
            held.enter_context(client)
            return House(services, app, client, server.model, tmp_path)

        yield make


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()
