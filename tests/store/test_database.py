"""What the store keeps, and that it keeps it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hanok.errors import InputError
from hanok.store.database import Answered, Feedback, Store, feedback_file

MESSAGES = [
    {"role": "user", "content": "서점은 언제 여나요?"},
    {"role": "assistant", "content": "열 시에 열어요. 🏡"},
]


def feedback(number: int = 0, **fields: object) -> Feedback:
    values = {
        "request_id": f"r{number}",
        "model_hash": "ab",
        "messages": MESSAGES,
        "rating": 1,
        "created": 1.0 + number,
    }
    return Feedback(**{**values, **fields})  # type: ignore[arg-type]


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    with Store(tmp_path / "a" / "store.sqlite") as store:
        given = feedback(
            rating=-1,
            correction="아홉 시에 열어요.",
            reason="시간이 틀림",
            user="영희",
            tools=[{"name": "x"}],
        )
        identifier = store.add_feedback(given)
        store.add_feedback(feedback(1))
        answered = Answered(request_id="r0", model_hash="ab", messages=MESSAGES[:1], answers=MESSAGES[1:])
        store.record_request(answered)
    with Store(tmp_path / "a" / "store.sqlite") as store:
        rows = list(store.read_feedback())
        assert [row.request_id for row in rows] == ["r0", "r1"]
        assert rows[0].id == identifier
        assert (rows[0].messages, rows[0].correction, rows[0].tools) == (
            given.messages,
            given.correction,
            given.tools,
        )
        assert store.find_request("r0") == answered
        assert store.find_request("r1") is None


def test_every_commit_is_flushed(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store, store._engine.connect() as connection:
        wal = sqlite3.sqlite_version_info >= (3, 51, 3)
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == ("wal" if wal else "delete")
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == (2 if wal else 3)  # FULL, EXTRA


def test_threads_may_write_at_once(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store, ThreadPoolExecutor(8) as pool:
        identifiers = set(pool.map(lambda number: store.add_feedback(feedback(number)), range(40)))
        assert {row.id for row in store.read_feedback()} == identifiers
        assert len(identifiers) == 40


def test_acknowledged_rows_survive_kill(tmp_path: Path) -> None:
    """Four times: kill -9 in the middle of writing; every id that was printed is there, whole."""
    path = tmp_path / "store.sqlite"
    acknowledged: list[str] = []
    for turn in range(4):
        command = [sys.executable, str(Path(__file__).with_name("writer.py")), str(path), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(5 + 3 * turn):
                acknowledged.append(writer.stdout.readline().strip())
            writer.send_signal(signal.SIGKILL)
            acknowledged += [
                line.strip()
                for line in writer.stdout.read().splitlines()
                if line.endswith(tuple("0123456789"))
            ]
    with Store(path) as store:
        rows = {row.id: row for row in store.read_feedback()}
        assert all(row.messages[1]["content"] == "아홉 시요." * 50 for row in rows.values())
    assert acknowledged
    assert set(acknowledged) <= set(rows)


def test_newer_tables_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store, store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    with pytest.raises(InputError, match="version 99"):
        Store(path)
    (tmp_path / "text.sqlite").write_text("this is no database, but a text that is long enough\n" * 50)
    with pytest.raises(InputError, match="cannot be used as a database"):
        Store(tmp_path / "text.sqlite")


def test_ratings_are_thumbs() -> None:
    with pytest.raises(InputError, match="1 for good"):
        feedback(rating=5)


def test_feedback_goes_to_the_run(tmp_path: Path) -> None:
    model = tmp_path / "runs" / "village" / "improve-001" / "model"
    model.mkdir(parents=True)
    assert feedback_file(model) == model.parent / "feedback.sqlite"
    (tmp_path / "runs" / "village" / "run.json").write_text("{}")
    assert feedback_file(model) == tmp_path / "runs" / "village" / "feedback.sqlite"
