"""F24, F25, F28: what the audit has acknowledged outlives kills, power failures and company. F26 is in tests/store/audit."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import lost_writes
import pytest

from hanok.store.audit.keys import load_verifier
from hanok.store.audit.log import AuditLog
from hanok.store.audit.place import AuditPlace
from hanok.store.audit.reader import Reader
from hanok.store.audit.verify import verify
from hanok.store.connection import connect

WRITER = Path(lost_writes.__file__).with_name("audit_writer.py")


def command(folder: Path, name: str, *options: str) -> list[str]:
    return [sys.executable, str(WRITER), str(folder), name, *options]


def tokens_in(folder: Path) -> list[str]:
    """After the log was found whole."""
    with Reader(AuditPlace(folder / "log.sqlite", folder)) as reader:
        report = verify(reader, load_verifier(folder), outside=[])
        assert report.ok, report.problem
        rows = reader.pieces(report.size)
        return [token for piece in rows for one in piece if (token := _target(one.row))]


def _target(row: str) -> str:
    return row.partition('"target":"')[2].partition('"')[0]


def kill_again_and_again(folder: Path, rounds: int, *options: str, seed: int = 24) -> list[str]:
    """Acknowledged tokens of writers that were all killed."""
    chance, acknowledged = random.Random(seed), []
    print(f"seed {seed}")
    for turn in range(rounds):
        with subprocess.Popen(
            command(folder, str(turn), *options), stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 30)):
                acknowledged.append(writer.stdout.readline().strip())
            time.sleep(chance.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            acknowledged += [line for line in rest[: rest.rfind("\n") + 1].splitlines() if line]
    return acknowledged


def check_kills(folder: Path, rounds: int) -> None:
    acknowledged = kill_again_and_again(folder, rounds)
    found = tokens_in(folder)
    assert len(acknowledged) >= rounds
    assert len(set(found)) == len(found)
    assert set(acknowledged) <= set(found)
    with AuditLog(AuditPlace(folder / "log.sqlite", folder)):  # goes on
        pass


def test_f24_kills(tmp_path: Path) -> None:
    check_kills(tmp_path / "audit", 5)


@pytest.mark.faults
def test_f24_two_hundred_kills(tmp_path: Path) -> None:
    check_kills(tmp_path / "audit", 200)


def test_f24_control_what_is_said_too_early_is_lost(tmp_path: Path) -> None:
    acknowledged = kill_again_and_again(tmp_path / "audit", 2, "--early")
    assert not set(acknowledged) <= set(tokens_in(tmp_path / "audit"))


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = lost_writes.compile_recorder(tmp_path_factory.mktemp("recorder"))
    if library is None:
        pytest.skip("needs a C compiler, for a library that records what SQLite does")
    return library


def record(recorder: Path, folder: Path, *options: str) -> list[lost_writes.Op]:
    """What a writer of some forty rows does to its files."""
    folder.mkdir()
    tape, audit = folder / "tape", folder / "audit"
    audit.mkdir()
    acks = audit / "acks"
    subprocess.run(
        command(audit, "w", "--acks", str(acks), "--count", "10", *options),
        env=lost_writes.recording(recorder, audit, tape), check=True,
    )  # fmt: skip
    ops = lost_writes.read_tape(tape)
    assert any(one.op == "s" and one.name.startswith("log.sqlite") for one in ops), "nothing was recorded"
    return ops


def lost_by_power_failures(folder: Path, ops: list[lost_writes.Op], rounds: int, *, seed: int = 25) -> int:
    """Acknowledged rows that are not there after failures at random moments; each log must open and be whole."""
    print(f"seed {seed}")
    chance, lost = random.Random(seed), 0
    moments = [place for place, one in enumerate(ops) if one.name == "acks"]
    for turn in range(rounds):
        moment = chance.choice(moments) + chance.randrange(0, 6)  # around acknowledgements most goes on
        before = ops[: moment + 1]
        said = b"".join(one.data for one in before if one.name == "acks" and one.op == "w").decode().split()
        disk = folder / f"disk{turn}"
        disk.mkdir()
        for name, content in lost_writes.after_failure(before, chance).items():
            if name.startswith("log.sqlite"):
                (disk / name).write_bytes(content)
        shutil.copy(folder / "audit" / "verifier.key", disk)
        try:
            lost += len(set(said) - set(tokens_in(disk)))
        except Exception:
            lost += len(said)
        shutil.rmtree(disk)
    return lost


def test_f25_power_failures(recorder: Path, tmp_path: Path) -> None:
    ops = record(recorder, tmp_path / "sure")
    assert lost_by_power_failures(tmp_path / "sure", ops, 25) == 0


@pytest.mark.faults
def test_f25_two_hundred_power_failures(recorder: Path, tmp_path: Path) -> None:
    ops = record(recorder, tmp_path / "sure")
    assert lost_by_power_failures(tmp_path / "sure", ops, 200) == 0


@pytest.mark.parametrize("synchronous", ["OFF", "FULL"])
def test_f25_control_less_flushing_loses_rows(recorder: Path, tmp_path: Path, synchronous: str) -> None:
    """FULL too, with a journal that is unlinked: its folder is not flushed, so it comes back and undoes what was said."""
    if synchronous == "FULL" and sqlite3.sqlite_version_info >= (3, 51, 3):
        pytest.skip("this SQLite has a write-ahead log here, which FULL is enough for")
    ops = record(recorder, tmp_path / "unsure", "--synchronous", synchronous)
    assert lost_by_power_failures(tmp_path / "unsure", ops, 25) > 0


def check_company(folder: Path, count: int) -> None:
    options = ("--count", str(count), "--threads", "2")
    processes = [
        subprocess.Popen(command(folder, f"p{number}", *options), stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    acknowledged = [line for one in processes for line in one.communicate()[0].splitlines()]
    assert all(one.returncode == 0 for one in processes)
    assert len(acknowledged) == 4 * 2 * count
    assert sorted(tokens_in(folder)) == sorted(acknowledged)
    with closing(sqlite3.connect(folder / "log.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_f28_four_processes_write_one_log(tmp_path: Path) -> None:
    check_company(tmp_path / "audit", 5)


@pytest.mark.faults
def test_f28_four_processes_write_long(tmp_path: Path) -> None:
    check_company(tmp_path / "audit", 2500)


@pytest.mark.parametrize(("safe_from", "mode"), [((99, 0, 0), "delete"), ((3, 0, 0), "wal")])
def test_f28_no_write_ahead_log_with_an_old_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe_from: tuple[int, int, int], mode: str
) -> None:
    """Versions before 3.51.3 can lose a committed write-ahead log when several processes use it."""
    monkeypatch.setattr("hanok.store.connection._WAL_IS_SAFE", safe_from)
    engine = connect(tmp_path / "x.sqlite")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == mode
    engine.dispose()
