"""What the log acknowledges is there; who may wait, waits; what cannot be written is said."""

from __future__ import annotations

import base64
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanok.errors import CapacityError, ConfigError, InputError, NotFoundError
from hanok.store.audit.checkpoint import notes_in
from hanok.store.audit.entry import Entry, canonical
from hanok.store.audit.keys import load_verifier
from hanok.store.audit.log import AuditLog
from hanok.store.audit.place import AuditPlace, audit_place
from hanok.store.audit.reader import Reader, Wanted
from hanok.store.audit.sealing import Vault

Open = Callable[..., AuditLog]


def test_rows_come_back_numbered_in_order(place: AuditPlace, look: Any, open_log: Open) -> None:
    log = open_log(place)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(
            pool.map(lambda n: log.append(Entry(kind="request", facts={"n": n})).result(10), range(200))
        )
    assert sorted(numbers) == list(range(200))
    with Reader(place) as reader:
        rows = [reader.find(number) for number in range(200)]
        assert [rows[number]["facts"]["n"] for number in numbers] == list(range(200))
        with pytest.raises(NotFoundError, match="no entry 200"):
            reader.find(200)
    assert look(place, outside=False).ok
    assert log.numbers().entries == 200 > log.numbers().commits


def test_every_commit_is_flushed(place: AuditPlace, open_log: Open) -> None:
    with open_log(place)._writer._engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        safe = sqlite3.sqlite_version_info >= (3, 51, 3)
        assert mode == ("wal" if safe else "delete")
        # a journal that is unlinked comes back after a power failure unless its folder is flushed as well
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == (2 if safe else 3)
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1


def test_patient_entries_wait_for_company(place: AuditPlace, open_log: Open) -> None:
    log = open_log(place, patience=30.0)
    waiting = [log.append(Entry(kind="request"), patient=True) for _ in range(20)]
    time.sleep(0.2)
    assert not any(one.done() for one in waiting)
    assert log.numbers().waiting == 20
    assert log.append(Entry(kind="key.create")).result(10) == 20  # who cannot wait takes them along, in order
    assert [one.result(0) for one in waiting] == list(range(20))
    assert log.numbers().commits == 1


def test_who_waits_goes_before_who_does_not(
    place: AuditPlace, open_log: Open, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are told, and there is a place for who waits where no more can be told."""
    log = open_log(place, most_rows=10, most_waiting=200)
    begun, go = threading.Event(), threading.Event()
    log._submit(lambda _transaction: begun.set() or go.wait(20))  # a transaction that takes its time
    assert begun.wait(10)
    told = [log.append(Entry(kind="request"), patient=True) for _ in range(181)]
    with pytest.raises(CapacityError, match="no more can wait"):
        told.pop().result(0)
    assert log.numbers().lost == 1
    sure = [log.append(Entry(kind="key.create")) for _ in range(15)]
    assert log.trouble() is None
    monkeypatch.setattr("hanok.store.audit.log._SLOW", 0.0)
    assert "not answered" in (log.trouble() or "")
    go.set()
    # entry 0 says what was lost; ten of them make one transaction, five the next, with five that came before them
    assert [one.result(10) for one in sure] == [*range(1, 11), *range(16, 21)]
    assert [one.result(20) for one in told] == [*range(11, 16), *range(21, 196)]
    log.close()
    assert look(place).ok


def test_what_waits_has_a_bound_in_bytes(place: AuditPlace, open_log: Open, look: Any) -> None:
    log = open_log(place, most_bytes=1_000_000)
    begun, go = threading.Event(), threading.Event()
    log._submit(lambda _transaction: begun.set() or go.wait(20))
    assert begun.wait(10)
    content = {"asked": "a" * 400_000, "answered": {"words": ["b" * 50_000]}}
    told = [
        log.append(Entry(kind="request", actor="u", facts={"n": n}, content=content), patient=True)
        for n in range(4)
    ]
    small = log.append(
        Entry(kind="key.create", actor="u", content={"name": "c" * 400_000})
    )  # who waits keeps it
    assert log.numbers().left_out == 2
    go.set()
    numbers = [one.result(10) for one in (*told, small)]
    again = log.append(Entry(kind="request", actor="u", content=content), patient=True).result(
        10
    )  # there is room again
    log.close()
    with Reader(place) as reader:
        rows = [reader.find(number) for number in (*numbers, again)]
    assert [row["sealed"] is not None for row in rows] == [True, True, False, False, True, True]
    assert [row["facts"] for row in rows[1:3]] == [{"n": 1}, {"n": 2, "content_left_out": True}]
    assert look(place).ok


def test_patience_ends(place: AuditPlace, open_log: Open) -> None:
    log = open_log(place, patience=0.05)
    assert log.append(Entry(kind="request"), patient=True).result(10) == 0


def test_closing_writes_and_signs_what_waits(place: AuditPlace, open_log: Open, look: Any) -> None:
    log = open_log(place, patience=30.0)
    waiting = [log.append(Entry(kind="request"), patient=True) for _ in range(5)]
    log.close()
    assert [one.result(0) for one in waiting] == list(range(5))
    with pytest.raises(CapacityError, match="closed"):
        log.append(Entry(kind="request")).result(0)
    report = look(place)
    assert report.ok
    assert report.signed == 5


def test_checkpoints_come_by_rows_and_by_time(place: AuditPlace, open_log: Open) -> None:
    log = open_log(place, checkpoint_rows=10, checkpoint_seconds=2.0)
    for _ in range(12):
        log.append(Entry(kind="request")).result(10)
    assert log.numbers().signed == 10
    until = time.monotonic() + 10
    while log.numbers().signed < 12 and time.monotonic() < until:
        time.sleep(0.05)
    assert log.numbers().signed == 12
    commits = log.numbers().commits
    time.sleep(2.5)
    assert log.numbers().commits == commits  # nothing new, nothing to sign
    verifier = load_verifier(place.folder)
    for path in (place.notes, place.mirror):
        assert path is not None
        assert [verifier.opened(note).size for note in notes_in(path.read_text())] == [10, 12]


def test_an_entry_that_has_no_form_leaves_no_gap(place: AuditPlace, open_log: Open, look: Any) -> None:
    log = open_log(place, patience=30.0)
    futures = [
        log.append(Entry(kind="request", facts={"x": x}), patient=True)
        for x in (1, float("nan"), object(), 2)
    ]
    log.append(Entry(kind="request", content={"x": float("inf")}), patient=True)
    last = log.append(Entry(kind="request", facts={"text": "\ud800\x00짝"})).result(10)
    assert (futures[0].result(), futures[3].result(), last) == (0, 1, 2)
    for bad in futures[1:3]:
        with pytest.raises((ValueError, TypeError)):
            bad.result(0)
    log.close()
    assert look(place).ok
    with pytest.raises(ConfigError, match="kind"):
        Entry(kind="Request!")


def test_two_writers_share_one_log(place: AuditPlace, open_log: Open, look: Any) -> None:
    logs = [open_log(place), open_log(place)]
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: logs[n % 2].append(Entry(kind="request")).result(30), range(40)))
    assert sorted(numbers) == list(range(40))
    for log in logs:
        log.close()
    assert look(place).ok


def test_a_locked_database_is_waited_for(place: AuditPlace, open_log: Open, look: Any) -> None:
    """Nothing is lost, whoever waits goes on waiting, and what is too much is counted."""
    log = open_log(place, most_waiting=6)  # one place is kept for who waits
    log._writer._engine.dispose()  # the next connection has our short patience

    @log_event(log)
    def impatient(connection: Any) -> None:
        connection.execute("PRAGMA busy_timeout=10").close()

    log.append(Entry(kind="request")).result(10)
    with closing(sqlite3.connect(str(place.log), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        futures = [log.append(Entry(kind="request", facts={"n": n}), patient=True) for n in range(5)]
        until = time.monotonic() + 10
        while log.problem is None and time.monotonic() < until:
            time.sleep(0.02)
        assert log.problem is not None
        assert "locked" in log.problem
        more = [log.append(Entry(kind="request"), patient=True) for _ in range(7)]
        assert not any(one.done() for one in futures)
        assert log.numbers().lost == sum(one.done() for one in more) > 0
        lost = log.numbers().lost
        other.execute("ROLLBACK")
    # entry 1 says what was lost
    assert sorted(one.result(20) for one in futures) == [2, 3, 4, 5, 6]
    assert log.problem is None
    log.close()
    with Reader(place) as reader:
        assert reader.find(1)["facts"] == {"count": lost}
    assert look(place).ok


def log_event(log: AuditLog) -> Callable[[Callable[[Any], None]], None]:
    from sqlalchemy import event

    def add(function: Callable[[Any], None]) -> None:
        event.listen(log._writer._engine, "connect", lambda connection, _record: function(connection))

    return add


def test_content_is_sealed_and_can_be_forgotten(place: AuditPlace, open_log: Open, look: Any) -> None:
    log = open_log(place)
    for number, (tenant, person) in enumerate([("a", "u1"), ("a", "u2"), ("b", "u1"), ("a", "u1")]):
        content = {"question": f"비밀 {number}", "secret": "hunter2 " * 10}
        assert (
            log.append(Entry(kind="request", tenant=tenant, actor=person, content=content)).result(10)
            == number
        )
    vault = Vault(log.keys.master, log.origin)

    def read(number: int) -> dict[str, Any]:
        with Reader(place) as reader, reader.connection() as connection:
            return vault.open(connection, number)

    assert read(3)["question"] == "비밀 3"
    assert log.forget("a", "u1").result(10) == 1
    assert read(1)["question"] == "비밀 1"
    for gone in (0, 3):
        with pytest.raises(NotFoundError, match="forgotten"):
            read(gone)
    late = Entry(kind="request", tenant="a", actor="u1", content={"question": "late"})
    assert log.append(late).result(10) == 5
    assert log.forget("a").result(10) == 1  # the whole tenant
    assert log.append(replace(late, actor="u3")).result(10) == 7
    for gone in (5, 7):  # what comes late of somebody who was forgotten is not kept
        with pytest.raises(NotFoundError, match="no content"):
            read(gone)
    assert read(2)["question"] == "비밀 2"
    with (
        pytest.raises(ConfigError, match="master key"),
        Reader(place) as reader,
        reader.connection() as connection,
    ):
        Vault(bytes(32), log.origin).open(connection, 2)
    log.close()
    report = look(place)
    assert report.ok, report.problem
    assert (report.sealed, report.forgotten) == (4, 2)
    raw = Path(place.log).read_bytes()  # type: ignore[arg-type]
    assert b"hunter2" not in raw
    assert "비밀".encode() not in raw


def test_old_content_is_deleted(place: AuditPlace, open_log: Open, look: Any) -> None:
    log = open_log(place, content_days=30.0)
    log.append(Entry(kind="request", actor="u", content={"a": 1}, time=time.time() - 40 * 86_400)).result(10)
    log.append(Entry(kind="request", actor="u", content={"a": 2})).result(10)
    assert log.expire(time.time() - 30 * 86_400).result(10) == 1
    log.close()
    with Reader(place) as reader:
        assert list(reader.sealed(0, 100)) == [1]
        assert reader.find(2)["kind"] == "audit.content_expired"
    again = open_log(place, content_days=0.0)  # looks when it is opened
    until = time.monotonic() + 10
    while again.numbers().size < 4 and time.monotonic() < until:
        time.sleep(0.02)
    again.close()
    report = look(place)
    assert report.ok, report.problem
    assert (report.sealed, report.expired) == (2, 2)


def test_lists_by_filter(written: AuditPlace) -> None:
    with Reader(written) as reader:
        page = reader.list(Wanted(actor="u1"), limit=3)
        assert [row["sequence"] for row in page] == [37, 34, 31]
        assert [row["sequence"] for row in reader.list(Wanted(actor="u1", before=31), limit=2)] == [28, 25]
        assert reader.list(Wanted(tenant="other"), limit=3) == []
        assert len(reader.list(Wanted(kind="request"), limit=100)) == 40
        assert reader.list(Wanted(kind="req"), limit=3) == []
        middle = reader.find(20)["time"]
        assert {row["sequence"] for row in reader.list(Wanted(since=middle), limit=100)} >= set(range(20, 40))


def test_keys_are_their_owners(place: AuditPlace, open_log: Open) -> None:
    open_log(place).close()
    for name in ("signing.key", "master.key"):
        assert stat.S_IMODE((place.folder / name).stat().st_mode) == 0o600
    (place.folder / "master.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        AuditLog(place)


def test_another_key_is_refused(place: AuditPlace, open_log: Open) -> None:
    open_log(place).close()
    for name in ("signing.key", "verifier.key"):
        (place.folder / name).unlink()
    with pytest.raises(ConfigError, match="signed by"):
        AuditLog(place)


def test_a_log_that_was_put_back_is_not_gone_on_with(place: AuditPlace, open_log: Open) -> None:
    path = Path(place.log)  # type: ignore[arg-type]
    open_log(place).append(Entry(kind="request")).result(10)
    log = open_log(place)
    log.close()
    old = path.read_bytes()
    with AuditLog(place) as later:
        for _ in range(5):
            later.append(Entry(kind="request")).result(10)
    path.write_bytes(old)
    with pytest.raises(InputError, match="put back or cut"):
        AuditLog(place)


def test_a_damaged_end_is_not_gone_on_with(written: AuditPlace, change: Any) -> None:
    change(written, "DELETE FROM audit_entries WHERE sequence = 39")
    with pytest.raises(InputError, match="damaged at entry 39"):
        AuditLog(written)


def test_postgresql(postgresql: Callable[[], str], tmp_path: Path, look: Any) -> None:
    url = postgresql()
    with pytest.raises(ConfigError, match="--audit-dir"):
        audit_place(url)
    place = audit_place(url, folder=tmp_path / "keys", mirror=tmp_path / "elsewhere")
    logs: list[AuditLog] = []

    def begin() -> None:
        logs.append(AuditLog(place))

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ThreadPoolExecutor(4) as pool:
        entries = [Entry(kind="request", actor="u", content={"n": n}) for n in range(60)]
        numbers = list(pool.map(lambda n: logs[n % 2].append(entries[n]).result(30), range(60)))
    assert sorted(numbers) == list(range(60))
    assert logs[0].forget("default", "u").result(10) == 1
    for log in logs:
        log.close()
    report = look(place)
    assert report.ok, report.problem
    assert (report.size, report.sealed, report.forgotten) == (61, 60, 1)


def test_canonical_json_is_one_form() -> None:
    assert canonical({"b": 1.0, "a": "한 ", "c": [True, None]}) == b'{"a":"\\ud55c ","b":1.0,"c":[true,null]}'
    assert base64.b64encode(canonical({})) == b"e30="
