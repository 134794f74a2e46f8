"""The audit of a server: who did what is in it before it is acknowledged, and requests soon after; who may read it, and what."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from hanok.cli import _run
from hanok.errors import AuditError
from hanok.guard.rulebook import Guard
from hanok.guard.verdicts import VerdictEvent
from hanok.server.app import create_app, services_of
from hanok.server.auditing.changes import AuditedManagement
from hanok.server.auditing.open import end_audit, open_audit, settings_facts
from hanok.server.auditing.requests import NOBODYS
from hanok.server.auditing.verdicts import verdict_writer
from hanok.server.identity.management import Management
from hanok.server.identity.people import open_people
from hanok.server.operations.config import ServeSettings
from hanok.server.operations.service import Operations
from hanok.server.services import Services
from hanok.store.access import Key
from hanok.store.audit.known import record_place
from hanok.store.audit.log import AuditLog
from hanok.store.audit.reader import Reader
from hanok.store.backup import backup
from hanok.store.database import Store


@dataclass(frozen=True)
class Audited:
    services: Services
    http: TestClient
    model: str
    path: Path

    @property
    def log(self) -> AuditLog:
        log = self.services.directory.trail.server_log
        assert log is not None
        return log

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> Any:
        self.services.directory._checked = float("-inf")  # as after half a second
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.http.request(method, path, headers={**headers, **options.pop("headers", {})}, **options)

    def chat(self, key: str | None = None, **options: Any) -> Any:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "my secret word"}],
            "max_tokens": 4,
        }
        return self.ask("POST", "/v1/chat/completions", key, json={**body, **options})

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Once those that need not wait are there."""
        self.log.checkpoint().result(10)
        with Reader(self.log.place) as reader:
            rows = [json.loads(one.row) for piece in reader.pieces(reader.head().size) for one in piece]
        return [row for row in rows if kind in (None, row["kind"])]


@pytest.fixture
def make(server: Any, random_run: Path, tmp_path: Path) -> Iterator[Callable[..., Audited]]:
    with ExitStack() as held:

        def make(
            guard: Guard | None = None, source: Callable[[], ServeSettings] | None = None, **settings: Any
        ) -> Audited:
            chosen = ServeSettings(audit_mirror=tmp_path / "elsewhere", **settings)
            store = held.enter_context(Store(tmp_path / "store.sqlite"))
            people = open_people(store, host="127.0.0.1")
            people.management.passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64)  # quick
            people.directory.trail.log = open_audit(chosen, tmp_path / "store.sqlite")
            held.callback(end_audit, people.directory.trail)
            services = services_of(
                server.engine, random_run / "model", store, people=people, operations=Operations(chosen, source=source),
                guard=guard,
            )  # fmt: skip
            held.callback(services.admission.ledger.flush)  # pyright: ignore[reportAttributeAccessIssue]
            client = TestClient(
                create_app(services), base_url="http://127.0.0.1:8080", client=("127.0.0.1", 50_000),
                raise_server_exceptions=False,
            )  # fmt: skip
            held.enter_context(client)
            return Audited(services, client, server.model, tmp_path)

        yield make


def test_requests_are_entries_without_a_word_of_them(make: Callable[..., Audited]) -> None:
    house = make()
    answer = house.chat(stream=False)
    assert answer.status_code == 200
    assert house.chat(stream=True).status_code == 200
    house.http.get("/healthz")
    house.http.get("/v1/models")
    whole, streamed = house.rows("request")
    facts = whole["facts"]
    assert (facts["route"], facts["status"], facts["method"]) == ("/v1/chat/completions", 200, "POST")
    work = facts["work"][0]
    assert (work["model"], work["completion_tokens"], work["streamed"]) == (house.model, 4, False)
    assert work["prompt_tokens"] > 0
    assert work["finish"] == "length"
    assert facts["ms"] >= work["ms"] > 0
    assert streamed["facts"]["work"][0]["streamed"] is True
    assert whole["target"] == answer.json()["id"]
    assert whole["request"] == answer.headers["x-request-id"]
    assert whole["sealed"] is None
    assert b"secret" not in Path(house.log.place.log).read_bytes()  # type: ignore[arg-type]


def test_content_is_kept_where_the_settings_say_so(make: Callable[..., Audited]) -> None:
    house = make(audit_content=True)
    key = house.ask("POST", "/admin/keys", json={"name": "boss", "role": "administrator"}).json()["secret"]
    answer = house.chat(key)
    row = house.rows("request")[-1]
    assert row["sealed"] is not None
    shown = house.ask("GET", f"/v1/audit/{row['sequence']}?content=true", key).json()
    assert "my secret word" in shown["content"]["asked"]
    assert json.loads(shown["content"]["answered"])["id"] == answer.json()["id"]
    assert house.rows("audit.opened")[-1]["target"] == str(row["sequence"])
    assert "content" not in house.ask("GET", f"/v1/audit/{row['sequence']}", key).json()


def test_changes_are_there_before_they_are_acknowledged(make: Callable[..., Audited]) -> None:
    house = make()

    def last() -> dict[str, Any]:
        """Without waiting for anything."""
        with Reader(house.log.place) as reader:
            size = reader.head().size
            rows = [json.loads(one.row) for piece in reader.pieces(size) for one in piece]
        return [row for row in rows if row["kind"] != "request"][-1]

    made = house.ask("POST", "/admin/keys", json={"name": "Yuna's", "role": "administrator"}).json()
    boss = made["secret"]
    entry = last()
    assert (entry["kind"], entry["target"], entry["actor"]) == ("key.create", made["id"], "local")
    assert "Yuna" not in json.dumps(entry)
    assert entry["sealed"]
    path = f"/admin/keys/{made['id']}"
    assert house.ask("PATCH", path, boss, json={"priority": 0}).status_code == 200
    assert last()["facts"] == {"priority": 0}
    assert last()["actor"] == made["id"]
    fresh = house.ask("POST", f"{path}/rotate", boss, json={"grace": 60}).json()
    assert last()["facts"] == {"replaces": made["id"], "grace": 60.0}
    assert house.ask("DELETE", path, fresh["secret"]).status_code == 200
    assert (last()["kind"], last()["target"]) == ("key.revoke", made["id"])
    boss = fresh["secret"]
    house.ask("POST", "/admin/tenants", boss, json={"id": "acme"})
    assert (last()["kind"], last()["tenant"]) == ("tenant.create", "acme")
    user = house.ask(
        "POST",
        "/admin/users",
        boss,
        json={"name": "mina", "password": "mina opens the gate", "tenant": "acme"},
    ).json()
    assert (last()["kind"], last()["target"]) == ("user.create", user["id"])
    assert house.ask(
        "PATCH", f"/admin/users/{user['id']}", boss, json={"password": "another long one"}
    ).is_success
    assert last()["facts"]["password"] is True
    assert house.http.post("/session", json={"name": "mina", "password": "another long one"}).is_success
    assert (last()["kind"], last()["actor"], last()["tenant"]) == ("session.begin", user["id"], "acme")
    house.http.cookies.clear()
    assert house.http.post("/session", json={"name": "mina", "password": "wrong"}).status_code == 401
    refused = house.rows("session.refused")[-1]
    assert refused["facts"] == {"code": "invalid_login"}
    assert "mina" not in json.dumps(refused)
    assert house.ask("DELETE", "/admin/tenants/acme", boss).json()["removed"]["audit_keys"] >= 1
    assert house.rows("tenant.delete")[-1]["target"] == "acme"
    assert house.rows("audit.subject_forgotten")[-1]["tenant"] == "acme"
    assert house.ask("GET", "/v1/audit/verify", boss).json()["ok"] is True


def test_every_change_of_keys_people_and_tenants_is_audited() -> None:
    """A method that comes later must be told of too."""
    public = {
        name for name, _ in inspect.getmembers(Management, inspect.isfunction) if not name.startswith("_")
    }
    assert public <= set(vars(AuditedManagement))


def test_nothing_is_changed_while_the_audit_cannot_be_written(make: Callable[..., Audited]) -> None:
    house = make()
    house.log.problem = "disk full"
    answer = house.ask("POST", "/admin/keys", json={"name": "bot"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "audit_unavailable"
    answered = house.chat()  # what only tells goes on, and waits
    assert answered.status_code == 200
    given = {"request_id": answered.json()["id"], "rating": 1}
    assert house.ask("POST", "/v1/feedback", json=given).status_code == 201
    for path in ("/session", "/session/setup"):
        body = {"name": "mina", "password": "any", **({"token": "any"} if path.endswith("setup") else {})}
        refused = house.ask("POST", path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit_unavailable")
    assert house.ask("GET", "/session/oidc/callback").status_code == 503
    house.log.problem = None
    assert house.ask("GET", "/admin/keys").json()["data"] == []


def test_who_may_read_what(make: Callable[..., Audited]) -> None:
    house = make()
    manage = house.services.directory.management
    boss = manage.create_key("boss", role="administrator")[1]
    manage.create_tenant("acme")
    keys = {
        role: manage.create_key(role, role=role, tenant="acme")[1]
        for role in ("user", "reviewer", "administrator")
    }
    assert house.chat(keys["user"]).status_code == 200
    house.chat(boss)
    house.rows()
    assert house.ask("GET", "/v1/audit", keys["user"]).status_code == 403
    assert house.ask("GET", "/v1/audit").status_code == 401
    for role in ("reviewer", "administrator"):
        page = house.ask("GET", "/v1/audit?limit=500", keys[role]).json()
        assert page["data"]
        assert {row["tenant"] for row in page["data"]} == {"acme"}
        assert house.ask("GET", "/v1/audit?tenant=default", keys[role]).status_code == 403
    everything = house.ask("GET", "/v1/audit?limit=500", boss).json()["data"]
    assert {row["tenant"] for row in everything} == {"acme", "default"}
    foreign = next(row["sequence"] for row in everything if row["tenant"] == "default")
    assert house.ask("GET", f"/v1/audit/{foreign}", keys["reviewer"]).status_code == 404
    assert house.ask("GET", f"/v1/audit/{foreign}", boss).json()["sequence"] == foreign
    # pages, newest first
    first = house.ask("GET", "/v1/audit?kind=key&limit=3", boss).json()
    assert [row["kind"] for row in first["data"]] == ["key.create"] * 3
    second = house.ask("GET", f"/v1/audit?kind=key&limit=3&before={first['next']}", boss).json()
    assert (len(second["data"]), second["has_more"], second["next"]) == (1, False, None)
    assert house.ask("GET", "/v1/audit/99999999999", boss).status_code == 404
    note = house.ask("GET", "/v1/audit/checkpoint", boss).json()
    assert note["checkpoint"].startswith(house.log.origin)


def test_strangers_cannot_fill_the_disk(make: Callable[..., Audited]) -> None:
    house = make()
    house.services.directory.management.create_key("boss", role="administrator")
    for number in range(NOBODYS + 20):
        assert house.ask("GET", f"/nothing/{number}").status_code in (401, 404)
    end_audit(house.services.directory.trail)
    with Reader(house.log.place) as reader:
        rows = [json.loads(one.row) for piece in reader.pieces(reader.head().size) for one in piece]
    asked = [row for row in rows if row["kind"] == "request"]
    counted = sum(row["facts"]["count"] for row in rows if row["kind"] == "request.counted")
    assert len(asked) + counted == NOBODYS + 20
    assert rows[-1]["kind"] == "server.stop"


def test_the_numbers_are_in_the_metrics(make: Callable[..., Audited]) -> None:
    house = make()
    house.chat()
    size = len(house.rows())
    text = house.http.get("/metrics").text
    assert f"hanok_audit_size {float(size)}" in text
    assert "hanok_audit_commits_total" in text


def test_commands_write_into_the_servers_audit(
    make: Callable[..., Audited], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make()
    monkeypatch.setenv("HANOK_STORE", str(house.path / "store.sqlite"))
    assert _run(["keys", "create", "bot"]) == 0
    entry = house.rows("key.create")[-1]
    assert entry["actor"].startswith("command line: ")
    key = capsys.readouterr().out.split()[0]
    house.chat(key)
    number = house.rows("request")[-1]["sequence"]
    proof = house.path / "proof.json"
    assert _run(["audit", "prove", "--entry", str(number), "--out", str(proof)]) == 0
    public = house.log.place.folder / "verifier.key"
    assert _run(["audit", "verify", "--proof", str(proof), "--key", str(public)]) == 0
    proof.write_text(proof.read_text().replace("chat/completions", "models"))
    assert _run(["audit", "verify", "--proof", str(proof), "--key", str(public)]) == 1
    capsys.readouterr()
    assert _run(["audit", "verify", "--checkpoint", str(house.path / "elsewhere"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    out = house.path / "out.jsonl"
    assert _run(["audit", "export", "--content", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["content"] for line in lines if line["kind"] == "key.create"] == [{"name": "bot"}]
    assert house.rows("audit.exported")
    assert _run(["audit", "keys"]) == 0
    assert _run(["audit", "checkpoint"]) == 0
    copy = house.path / "copy"
    copy.mkdir()
    (copy / "log.sqlite").write_bytes(Path(house.log.place.log).read_bytes()[:-4096])  # type: ignore[arg-type]
    (copy / "verifier.key").write_bytes(public.read_bytes())
    monkeypatch.delenv("HANOK_STORE")
    capsys.readouterr()
    assert _run(["audit", "verify", "--audit-dir", str(copy), "--json"]) in (1, 2)


def test_a_deletion_and_its_forgetting_are_one(
    make: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make()
    manage = house.services.directory.management
    trail = house.services.directory.trail
    for tenant in ("acme", "umbra"):
        manage.create_tenant(tenant)
    mina, yuna = (
        manage.create_user(name, password="a long password", tenant="acme") for name in ("mina", "yuna")
    )
    before = house.log.numbers().commits
    manage.delete_user(mina)
    assert house.log.numbers().commits == before + 1
    assert [row["target"] for row in house.rows("audit.subject_forgotten")] == [mina.id]

    with monkeypatch.context() as patch:  # the rows are gone, and then the audit cannot be written
        patch.setattr("hanok.server.auditing.trail.WAIT_SECONDS", 0.05)
        patch.setattr(house.log, "append_and_forget", lambda *_args: Future())
        with pytest.raises(AuditError, match=r"user\.delete was done") as caught:
            manage.delete_user(yuna)
        assert f"hanok audit forget {yuna.id} --tenant acme --yes" in str(caught.value)
        patch.setattr(house.log, "forget", lambda *_args, **_options: Future())
        with pytest.raises(AuditError, match=r"audit\.forget could not be written"):
            trail.forget("acme", yuna.id)
    monkeypatch.setenv("HANOK_STORE", str(house.path / "store.sqlite"))
    assert _run(["audit", "forget", yuna.id, "--tenant", "acme"]) == 2  # not without --yes
    assert _run(["audit", "forget", "--yes"]) == 2  # not of the whole house
    for _ in range(2):  # repeated, it does no harm
        assert _run(["audit", "forget", yuna.id, "--tenant", "acme", "--yes"]) == 0
    forgotten = house.rows("audit.subject_forgotten")
    assert [row["target"] for row in forgotten] == [mina.id, yuna.id]
    assert forgotten[-1]["actor"].startswith("command line: ")


def test_commands_find_an_audit_elsewhere(
    make: Callable[..., Audited],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "far" / "audit"
    house = make(audit_dir=elsewhere)
    store = house.services.store
    record_place(store, house.log.place)  # as `serve` does
    monkeypatch.setenv("HANOK_STORE", str(house.path / "store.sqlite"))
    monkeypatch.setenv("HANOK_SERVE_AUDIT_DIR", str(tmp_path / "not yet"))
    assert _run(["keys", "create", "nobody"]) == 2
    monkeypatch.delenv("HANOK_SERVE_AUDIT_DIR")
    assert _run(["keys", "create", "bot"]) == 0
    assert house.rows("key.create")[-1]["actor"].startswith("command line: ")
    assert _run(["audit", "keys"]) == 0  # they find it as well
    moved = tmp_path / "moved"
    end_audit(house.services.directory.trail)
    elsewhere.rename(moved)
    capsys.readouterr()
    assert _run(["keys", "create", "other"]) == 2
    assert "cannot be opened" in capsys.readouterr().err
    assert _run(["keys", "list"]) == 0
    assert "other" not in capsys.readouterr().out
    assert _run(["keys", "create", "third", "--audit-dir", str(moved)]) == 0
    (moved / "signing.key").write_text("none")
    assert _run(["keys", "create", "fourth", "--audit-dir", str(moved)]) == 1
    assert "nothing may be changed" in capsys.readouterr().err
    copy = tmp_path / "copy" / "store.sqlite"
    copy.parent.mkdir()
    backup(store, copy)
    assert _run(["keys", "create", "fifth", "--store", str(copy)]) == 2
    assert "moved or copied" in capsys.readouterr().err
    record_place(store, None)
    monkeypatch.setenv("HANOK_SERVE_AUDIT_DIR", str(tmp_path / "not yet"))  # no server has started with it
    assert _run(["keys", "create", "sixth"]) == 0
    assert [key.name for key in house.services.directory.access.every(Key)] == ["bot", "third", "sixth"]


def test_a_server_without_one(make: Callable[..., Audited]) -> None:
    house = make(audit=False)
    assert house.services.directory.trail.log is None
    assert house.ask("POST", "/admin/keys", json={"name": "b", "role": "administrator"}).status_code == 201
    assert not (house.path / "store.sqlite.audit").exists()


def test_feedback_and_models_are_entries(make: Callable[..., Audited]) -> None:
    house = make()
    identifier = house.chat().json()["id"]
    body = {"request_id": identifier, "rating": -1, "correction": "a private word"}
    given = house.http.post("/v1/feedback", json=body).json()["id"]
    entry = house.rows("feedback.create")[-1]
    assert (entry["target"], entry["facts"]) == (given, {"of": identifier, "rating": -1, "corrected": True})
    assert house.http.post("/admin/reload").status_code == 400  # there is nothing to read again
    assert house.rows("settings.reload") == []
    began = time.monotonic()
    house.services.operations._fault("model taken back", "model.taken_back", "m", "why")
    assert time.monotonic() - began < 0.1
    assert house.rows("model.taken_back")[-1]["facts"] == {"model": "m", "why": "why"}


def test_taking_the_guard_away_leaves_a_trace(make: Callable[..., Audited], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("format = 1\n[rules.secrets]\n")
    guard = Guard.open(str(policy))
    chosen = ServeSettings(guard=str(policy))
    house = make(guard, lambda: chosen)
    begun = settings_facts(chosen, Path("m"), "ab", guard)["policy"]
    assert begun == {"source": "policy.toml", "hash": guard.policy.hash}
    policy.write_text("format = 1\n")
    house.services.operations.reload_if_possible()  # as SIGHUP does
    first = house.rows("settings.reload")[-1]
    assert first["actor"] == "server"
    assert first["facts"]["before"]["policy"] == begun
    weaker = first["facts"]["now"]["policy"]
    assert weaker["source"] == "policy.toml"
    assert weaker["hash"] == guard.policy.hash != begun["hash"]
    chosen = ServeSettings(guard="off")
    assert house.http.post("/admin/reload").status_code == 200
    second = house.rows("settings.reload")[-1]
    assert (second["actor"], second["facts"]["changed"]) == ("local", ["guard"])
    assert second["facts"]["before"]["policy"] == weaker
    assert second["facts"]["now"]["policy"]["source"] == "off"


def test_verdicts_are_entries(make: Callable[..., Audited]) -> None:
    house = make()
    event = VerdictEvent(
        request_id="chatcmpl-1", tenant="acme", key_id="abc", model="m", rule="secrets", action="redact", direction="output",
        where="text", span=(3, 9), reason="a token",
    )  # fmt: skip
    verdict_writer(house.services.directory.trail)(event)
    row = house.rows("verdict")[-1]
    assert (row["actor"], row["tenant"], row["target"]) == ("abc", "acme", "chatcmpl-1")
    assert row["facts"] == {
        "rule": "secrets", "action": "redact", "direction": "output", "where": "text", "span": [3, 9],
        "reason": "a token", "count": 1, "model": "m", "told": True,
    }  # fmt: skip
