"""`hanok keys`, `users`, `tenants`, `usage` and `store`, as they are typed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from hanok import cli
from hanok.cli.places import store_place
from hanok.documents.library import Library
from hanok.server.identity.secrets import public_id
from hanok.store.access import Access, Key, User
from hanok.store.conversations import Owner, Shelf, conversations
from hanok.store.database import Store
from hanok.store.usage import add_usage


class Shell:
    def __init__(self, place: Path, output: pytest.CaptureFixture[str]) -> None:
        self.place, self._output = place, output

    def __call__(self, *words: str) -> Any:
        """The result of a command; its message where it ends with 2."""
        code = cli._run([*words, "--store", str(self.place), "--json"])
        captured = self._output.readouterr()
        return json.loads(captured.out.splitlines()[-1]) if code == 0 else f"{code}: {captured.err}"


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "store.sqlite", capsys)


def test_keys(shell: Shell) -> None:
    made = shell(
        "keys",
        "create",
        "bot",
        "--scope",
        "chat,embeddings",
        "--limit",
        "requests_per_minute=60",
        "--days",
        "1",
    )
    assert public_id(made["secret"]) == made["id"]
    assert (made["scopes"], made["limits"]) == (["chat", "embeddings"], {"requests_per_minute": 60.0})
    assert made["expires"] == pytest.approx(made["created"] + 86_400, abs=5)
    rotated = shell("keys", "rotate", made["id"], "--grace", "60")
    assert rotated["limits"] == made["limits"]
    assert shell("keys", "revoke", rotated["id"])["revoked"] is not None
    listed = shell("keys", "list")["keys"]
    assert [key["id"] for key in listed] == [made["id"], rotated["id"]]
    assert "secret" not in str(listed)
    with Store(shell.place) as store:
        assert len(Access(store).every(Key)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("keys", "create", "x", "--role", "admin"), 'no role "admin"'),
        (("keys", "create", "x", "--limit", "requests=1"), "no limit"),
        (("keys", "create", "x", "--limit", "requests_per_minute"), "requests_per_minute=60"),
        (("keys", "create", "x", "--tenant", "acme"), "hanok tenants create acme"),
        (("keys", "revoke", "unknown"), "no key"),
        (("users", "change", "nobody", "--disable"), "no user"),
        (("tenants", "delete", "acme"), "--yes"),
        (("tenants", "create", "Not A Name"), "small letters"),
        (("usage", "--by", "colour"), "usage by"),
    ],
)
def test_mistakes_are_said(shell: Shell, words: tuple[str, ...], message: str) -> None:
    said = shell(*words)
    assert said.startswith("2: ")
    assert message in said


def test_people(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("tea at the pavilion\nanother pavilion\n"))
    made = shell("users", "create", "yeonghui", "--role", "administrator", "--password-stdin")
    assert made["role"] == "administrator"
    shell("users", "change", "yeonghui", "--password-stdin")
    assert "last administrator" in shell("users", "change", "yeonghui", "--disable")
    assert [user["name"] for user in shell("users", "list")["users"]] == ["yeonghui"]
    with Store(shell.place) as store:
        (user,) = Access(store).every(User)
    assert user.password is not None
    assert user.password.startswith("$argon2id$")


def test_tenants_and_usage_and_copies(shell: Shell, tmp_path: Path) -> None:
    shell("tenants", "create", "acme", "--limit", "monthly_budget=20")
    assert shell("tenants", "change", "acme", "--suspend")["suspended"] is not None
    assert shell("tenants", "change", "acme", "--resume")["suspended"] is None
    with Store(shell.place) as store, store.write() as connection:
        add_usage(connection, {("2026-11-21", "acme", "k", "m"): [2, 0, 10, 5, 4, 0.5]})
        add_usage(connection, {("2026-11-22", "acme", "k", "m"): [1, 1, 10, 5, 4, 0.5]})
    used = shell("usage", "--by", "tenant", "--last", "2026-11-21")
    assert used["data"][0] == {
        "tenant": "acme", "requests": 2, "errors": 0, "prompt_tokens": 10, "cached_tokens": 5, "completion_tokens": 4,
        "cost": 0.5,
    }  # fmt: skip
    assert shell("usage")["total"]["requests"] == 3
    assert shell("store", "migrate")["after"] >= 2
    assert shell("store", "backup", str(tmp_path / "copy"))["rows"]["tenants"] == 1
    assert shell("tenants", "delete", "acme", "--yes")["deleted"] is True
    assert shell("store", "check")["rows"]["tenants"] == 0
    back = Shell(tmp_path / "back.sqlite", shell._output)
    assert back("store", "restore", str(tmp_path / "copy"))["rows"]["tenants"] == 1
    assert [one["id"] for one in back("tenants", "list")["tenants"]] == ["acme"]


def test_deleting_takes_everything_along(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents with their texts and passages, conversations and responses, from the command line too."""
    monkeypatch.setattr("sys.stdin", io.StringIO("tea at the pavilion\n"))
    shell("tenants", "create", "acme")
    yuna = shell("users", "create", "yuna", "--password-stdin")
    with Store(shell.place) as store:
        library, shelf = Library(store), Shelf(store.engine, conversations)
        for tenant in ("acme", "default"):
            file = library.files.add(tenant, "a.txt", b"The tea house opens at nine.")
            library.collections.create(tenant, "all", file_ids=[file.id])
            for person in ("k1", yuna["id"]):
                shelf.put(Owner(tenant, person), "c", title="t", body={}, words=[], version=0)
    removed = shell("tenants", "delete", "acme", "--yes")["removed"]
    assert (removed["document_files"], removed["document_collections"], removed["conversations"]) == (1, 1, 2)
    assert "--yes" in shell("users", "delete", "yuna")
    assert "no user" in shell("users", "delete", "nobody", "--yes")
    assert shell("users", "delete", "yuna", "--yes")["removed"]["conversations"] == 1
    rows = shell("store", "check")["rows"]
    assert {name: rows[name] for name in ("users", "conversations", "document_files", "document_texts")} == {
        "users": 0, "conversations": 1, "document_files": 1, "document_texts": 1,
    }  # fmt: skip
    assert rows["document_passages"] == rows["document_vectors"] == 1
    assert "there was a tenant" in shell("tenants", "create", "acme")


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANOK_STORE", str(tmp_path / "named.sqlite"))
    assert store_place(None) == tmp_path / "named.sqlite"
    assert store_place("postgresql://x/y") == "postgresql://x/y"
