"""Databases of earlier versions are brought to this one, whole or not at all, by one process at a time."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from hanok.documents.library import Library
from hanok.errors import ConfigError, InputError
from hanok.store import extraction, responses, watermark_keys
from hanok.store.access import Access, Tenant
from hanok.store.connection import connect, writing
from hanok.store.conversations import Owner, Shelf, conversations
from hanok.store.database import Answered, Feedback, Store
from hanok.store.schema import SCHEMA_VERSION, metadata

VERSION_1 = Path(__file__).with_name("version_1.sql").read_text(encoding="utf-8")
STEPS = sorted((Path(__file__).parents[2] / "src/hanok/store/migrations/versions").glob("0*.py"))


def old(path: Path) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    return path


def test_steps_are_numbered_without_gaps() -> None:
    assert [int(step.name[:4]) for step in STEPS] == list(range(1, SCHEMA_VERSION + 1))


def test_the_steps_make_the_tables_of_the_schema(place: Path | str) -> None:
    assert {extraction.extraction, watermark_keys.watermark_keys} <= {*metadata.tables.values()}
    with Store(place) as store:
        assert store.migrated == (0, SCHEMA_VERSION)
        with store.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            found = compare_metadata(context, metadata)
        assert [change for change in found if "alembic_version" not in str(change)] == []


def test_rows_come_back_from_each_kind(place: Path | str) -> None:
    messages = [{"role": "user", "content": "언제?"}, {"role": "assistant", "content": "아홉 시요. 🏡"}]
    with Store(place) as store:
        for tenant in ("acme", "other"):
            Access(store).add(Tenant(id=tenant))
        answered = Answered(
            request_id="r", model_hash="ab", messages=messages[:1], answers=messages[1:], tenant="acme"
        )
        store.record_request(answered)
        assert store.find_request("r") == answered
        assert store.find_request("r", tenant="other") is None
        for tenant in ("acme", "other"):
            store.add_feedback(
                Feedback(request_id="r", model_hash="ab", messages=messages, rating=1, tenant=tenant)
            )
        assert [row.tenant for row in store.read_feedback(tenant="acme")] == ["acme"]
        assert len(list(store.read_feedback())) == 2
        Access(store).delete_tenant("acme", now=1.0)
        assert store.find_request("r") is None
        assert [row.tenant for row in store.read_feedback()] == ["other"]
        store.record_request(answered)  # by an answer that was under way: nothing of it comes back
        assert store.find_request("r") is None


def test_a_file_of_version_1_is_brought_up_in_place(tmp_path: Path) -> None:
    with Store(old(tmp_path / "old.sqlite")) as store:
        assert store.migrated == (1, SCHEMA_VERSION)
        (row,) = store.read_feedback()
        assert (row.id, row.rating, row.tenant) == ("fb-0", 1, "default")
        found = store.find_request("r0")
        assert found is not None
        assert found.messages[0]["content"] == "언제?"
        with store.read() as connection:
            found = compare_metadata(MigrationContext.configure(connection), metadata)
        assert [change for change in found if "alembic_version" not in str(change)] == []
    with Store(tmp_path / "old.sqlite") as store:
        assert store.migrated == (SCHEMA_VERSION, SCHEMA_VERSION)


CONTENT = ("document_", "conversations", "presets", "responses")


def at_version_2(place: Path | str, *, content: bool) -> None:
    """As a server of that version left it, whether documents and conversations were ever used or not: their tables were made
    when they first were."""
    engine = connect(place)
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(STEPS[0].parents[1]))
    with writing(engine).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        run = connection.exec_driver_sql
        run("INSERT INTO tenants (id, name, limits, created) VALUES ('acme', 'Acme', '{}', 1)")
        run(
            "INSERT INTO usage (day, tenant, key, model, requests, errors, prompt_tokens, cached_tokens, completion_tokens, cost)"
            " VALUES ('2026-11-21', 'gone', 'k', 'm', 1, 0, 1, 0, 1, 0)"
        )
        if content:
            late = [table for table in metadata.sorted_tables if table.name.startswith(CONTENT)]
            metadata.create_all(connection, tables=late)
            for name in ("beat", "cancelled"):  # of responses, since version 8
                run(f"ALTER TABLE responses DROP COLUMN {name}")
            rows = [
                ("acme", "k1", "kept"),
                ("gone", "k2", "late"),
                ("default", "u_left", "of somebody deleted"),
            ]
            for tenant, owner, title in rows:
                run(
                    "INSERT INTO conversations (tenant, owner, id, title, created, updated, version, body, words) "
                    f"VALUES ('{tenant}', '{owner}', 'c', '{title}', 1, 1, 1, '{{}}', '')"
                )
    engine.dispose()


@pytest.mark.parametrize("content", [False, True])
def test_a_database_of_version_2_is_brought_up(place: Path | str, content: bool) -> None:
    at_version_2(place, content=content)
    with Store(place) as store:
        assert store.migrated == (2, SCHEMA_VERSION)
        with store.read() as connection:
            found = compare_metadata(MigrationContext.configure(connection), metadata)
        assert [change for change in found if "alembic_version" not in str(change)] == []
        shelf, access = Shelf(store.engine, conversations), Access(store)
        if content:
            kept = shelf.find(Owner("acme", "k1"), "c")
            assert kept is not None
            assert kept.title == "kept"
        assert shelf.page(Owner("gone", "k2")) == []  # written a moment behind the deletion
        assert shelf.page(Owner("default", "u_left")) == []
        with pytest.raises(InputError, match="there was a tenant"):
            access.add(Tenant(id="gone"))
        library = Library(store)
        file = library.files.add("acme", "a.txt", "도서관은 자정에 닫는다.".encode())
        library.collections.create("acme", "all", file_ids=[file.id])
        kept_response = responses.KeptResponse(id="r", tenant="acme", body={}, input=[], messages=[])
        responses.ResponseTable(store).add(kept_response)
        removed = access.delete_tenant("acme", now=1.0)
        assert (removed["document_files"], removed["responses"], removed["conversations"]) == (1, 1, content)


def test_many_may_open_a_new_database_at_once(place: Path | str) -> None:
    def open_it(_number: int) -> tuple[int, int]:
        with Store(place) as store:
            return store.migrated

    with ThreadPoolExecutor(4) as pool:
        assert {after for _, after in pool.map(open_it, range(4))} == {SCHEMA_VERSION}


def test_newer_tables_are_refused(place: Path | str) -> None:
    with Store(place) as store, store.write() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    with pytest.raises(InputError, match="version 99"):
        Store(place)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://localhost/x", "kind"),
        ("://x", "cannot be read"),
    ],
)
def test_other_databases_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Store(url)


def test_a_password_is_not_in_the_name_or_the_message(postgresql: Callable[[], str]) -> None:
    host = postgresql().partition("host=")[2]
    with pytest.raises(InputError) as caught:
        Store(f"postgresql://hanok:topsecret@/absent?host={host}")
    assert "topsecret" not in str(caught.value)


KILLED = """
import os, sys
from alembic import op
from pathlib import Path
from hanok.store import schema
import sqlalchemy

count = int(sys.argv[2])
def die(connection, cursor, statement, *rest):
    global count
    if statement.split()[0] in ("CREATE", "ALTER", "INSERT", "UPDATE"):
        count -= 1
        if count == 0:
            if sys.argv[3] == "careless":
                cursor.execute("COMMIT")
            os._exit(9)
sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", die)
from hanok.store.database import Store
Store(sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])).close()
"""


def kill_at(place: Path | str, statement: int, manner: str = "careful") -> int:
    command = [sys.executable, "-c", KILLED, str(place), str(statement), manner]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, check=False).returncode


@pytest.mark.parametrize("statement", [1, 5, 12])
def test_a_killed_step_leaves_the_old_tables(tmp_path: Path, statement: int) -> None:
    _check_kill(tmp_path, statement)


@pytest.mark.faults
def test_f29_a_kill_before_any_statement_of_a_step(tmp_path: Path) -> None:
    statement, killed = 0, 9
    while killed == 9:
        statement += 1
        killed = _check_kill(tmp_path / str(statement), statement)
    assert statement > 15  # it was killed many times, and then no more


@pytest.mark.faults
@pytest.mark.parametrize("statement", [1, 6, 12, 18])
def test_f29_a_kill_in_the_step_from_version_2(place: Path | str, statement: int) -> None:
    at_version_2(place, content=False)
    before = _tables(place)
    assert kill_at(place, statement) == 9
    assert _tables(place) == before
    with Store(place) as store:
        assert store.migrated == (2, SCHEMA_VERSION)


@pytest.mark.faults
def test_f29_control_steps_that_are_kept_one_by_one_leave_half(tmp_path: Path) -> None:
    place = tmp_path / "store.sqlite"
    at_version_2(place, content=False)
    before = _tables(place)
    assert kill_at(place, 6, "careless") == 9
    assert _tables(place) != before


def _tables(place: Path | str) -> set[str]:
    engine = connect(place)
    with engine.connect() as connection:
        found = set(inspect(connection).get_table_names())
    engine.dispose()
    return found


def _check_kill(folder: Path, statement: int) -> int:
    folder.mkdir(exist_ok=True)
    path = old(folder / "old.sqlite")
    code = kill_at(path, statement)
    with sqlite3.connect(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        (version,) = connection.execute("SELECT version FROM schema_version").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    if code == 9:
        assert version == 1
        assert tables == {"schema_version", "requests", "feedback"}
    with Store(path) as store:  # the next one does it
        assert [row.id for row in store.read_feedback()] == ["fb-0"]
    return code


def test_steps_say_their_numbers() -> None:
    for step in STEPS:
        assert re.search(rf'revision, down_revision = "{step.name[:4]}"', step.read_text(encoding="utf-8"))
