"""A server with everything on: a policy file, an audit, people of two tenants, and a model that says what a test wrote."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from argon2 import PasswordHasher
from scripted import Script

from hanok.engine.generator import LocalEngine
from hanok.guard.rulebook import Guard
from hanok.server.app import create_app, listen, services_of
from hanok.server.auditing.open import end_audit, open_audit
from hanok.server.identity.people import open_people
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.server.services import Services
from hanok.store.database import Store

POLICY = """\
format = 1

# Keys and passwords, coming in and going out.
[rules.secrets]
on = ["input", "output"]

[rules.personal-data]

[rules.words]
kind = "phrases"
phrases = ["open sesame"]
on = ["input"]
action = "block"

[rules.forbidden]
kind = "phrases"
phrases = ["the treasure lies"]
on = ["output"]
action = "block"

[rules.noted]
kind = "phrases"
phrases = ["lantern"]

[rules.egress]

[tenants.acme.rules.words]
enabled = false
"""
PEOPLE = {
    "boss": ("administrator", "default"), "rita": ("reviewer", "default"), "rob": ("reviewer", "default"),
    "yuna": ("user", "default"), "ada": ("administrator", "acme"),
}  # fmt: skip


@dataclass(frozen=True)
class Watched:
    """`policy`: the file. `script`: says what is asked next."""

    url: str
    policy: Path
    script: Script
    services: Services
    model: str

    @contextlib.contextmanager
    def as_(self, name: str) -> Iterator[httpx.Client]:
        """Somebody who has signed in."""
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            signed = http.post("/session", json={"name": name, "password": password(name)}).json()
            http.headers.update({"x-hanok-csrf": signed["csrf"], "origin": self.url})
            yield http

    def chat(self, http: httpx.Client, words: str, says: str, **more: Any) -> httpx.Response:
        self.script.says(*says)
        body = {"model": self.model, "messages": [{"role": "user", "content": words}], **more}
        return http.post("/v1/chat/completions", json=body)


def password(name: str) -> str:
    return f"{name} opens the gate"


@contextlib.contextmanager
def watched(
    model_dir: Path, folder: Path, *, policy: str | None = POLICY, **settings: Any
) -> Iterator[Watched]:
    """Args: policy: None: the server is started without a file. settings: of `ServeSettings`."""
    file = folder / "policy.toml"
    if policy is not None:
        file.write_text(policy, encoding="utf-8")
    chosen = ServeSettings(audit_content=True, audit_mirror=folder / "elsewhere", **settings)
    with contextlib.ExitStack() as held:
        engine = LocalEngine(model_dir)
        held.callback(engine.close)
        script = Script(engine.tokenizer)
        engine.follow = script.follow  # type: ignore[method-assign]
        store = held.enter_context(Store(folder / "store.sqlite"))
        people = open_people(store, host="127.0.0.1")
        people.management.passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64)  # quick
        people.directory.trail.log = open_audit(chosen, folder / "store.sqlite")
        held.callback(end_audit, people.directory.trail)
        people.management.create_tenant("acme")
        for name, (role, tenant) in PEOPLE.items():
            people.management.create_user(name, password=password(name), role=role, tenant=tenant)
        guard = Guard.open("default" if policy is None else str(file))
        services = services_of(
            engine, model_dir, store, name="hanok", people=people, operations=Operations(chosen), guard=guard
        )  # fmt: skip
        held.callback(services.admission.ledger.flush)  # type: ignore[attr-defined]
        listener = held.enter_context(listen("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(services), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Watched(f"http://127.0.0.1:{listener.getsockname()[1]}", file, script, services, "hanok")
        finally:
            server.should_exit = True
            thread.join()
