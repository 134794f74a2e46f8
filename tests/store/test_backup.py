"""Copies: taken while others write, checked, put back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from hanok.errors import ConfigError, InputError
from hanok.store.access import Access, Key, Tenant
from hanok.store.backup import backup, check, restore
from hanok.store.database import Feedback, Store
from hanok.store.usage import add_usage, read_usage


def feedback(number: int) -> Feedback:
    words = [{"role": "user", "content": "언제?"}, {"role": "assistant", "content": f"{number} 🏡"}]
    return Feedback(
        id=f"fb-{number}", request_id="r", model_hash="ab", messages=words, rating=1, created=float(number)
    )


def fill(store: Store) -> None:
    access = Access(store)
    access.add(Tenant(id="acme", limits={"concurrency": 2}))
    access.add(
        Key(id="0123456789abcdef", digest="d", name="bot", tenant="acme", models=["a", "b"], created=1.5)
    )
    for number in range(3):
        store.add_feedback(feedback(number))
    with store.write() as connection:
        add_usage(connection, {("2026-11-21", "acme", "k", "m"): [1, 0, 2, 1, 3, 0.25]})


def same(one: Store, other: Store) -> bool:
    return all(
        (
            Access(one).every(Key) == Access(other).every(Key),
            Access(one).every(Tenant) == Access(other).every(Tenant),
            list(one.read_feedback()) == list(other.read_feedback()),
            read_usage(one) == read_usage(other),
        )
    )


def test_a_sqlite_copy(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as store:
        fill(store)
        counts = backup(store, tmp_path / "copy" / "a.backup")
        assert (counts["feedback"], counts["keys"]) == (3, 1)
        assert check(store)["feedback"] == 3
        assert (tmp_path / "copy" / "a.backup").stat().st_mode & 0o077 == 0
        with pytest.raises(InputError, match="exists"):
            backup(store, tmp_path / "copy" / "a.backup")
        restore(tmp_path / "copy" / "a.backup", tmp_path / "b.sqlite")
        with Store(tmp_path / "b.sqlite") as other:
            assert same(store, other)
    with pytest.raises(InputError, match="exists"):
        restore(tmp_path / "copy" / "a.backup", tmp_path / "b.sqlite")
    with pytest.raises(ConfigError, match="PostgreSQL"):
        restore(tmp_path / "copy" / "a.backup", "postgresql://x/y")


def test_a_postgresql_copy_into_both_kinds(postgresql: Callable[[], str], tmp_path: Path) -> None:
    with Store(postgresql()) as store:
        fill(store)
        counts = backup(store, tmp_path / "pg.jsonl.zst")
        assert (counts["feedback"], counts["keys"]) == (3, 1)
        assert check(store)["tenants"] == 1
        for place in (tmp_path / "from-pg.sqlite", postgresql()):
            assert restore(tmp_path / "pg.jsonl.zst", place)["feedback"] == 3
            with Store(place) as other:
                assert same(store, other)
            with pytest.raises(InputError, match="not empty"):
                restore(tmp_path / "pg.jsonl.zst", place)


@pytest.mark.parametrize("harm", ["cut", "flip", "drop a row", "empty"])
def test_damaged_copies_are_refused(postgresql: Callable[[], str], tmp_path: Path, harm: str) -> None:
    copy = tmp_path / "pg.jsonl.zst"
    with Store(postgresql()) as store:
        fill(store)
        backup(store, copy)
    whole = copy.read_bytes()
    lines = zstandard.ZstdDecompressor().stream_reader(whole).read().splitlines(keepends=True)
    copy.write_bytes(
        {
            "cut": lambda: whole[: len(whole) // 2],
            "flip": lambda: whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
            "drop a row": lambda: zstandard.compress(b"".join(lines[:3] + lines[4:])),
            "empty": lambda: b"",
        }[harm]()
    )
    with pytest.raises(InputError, match="damaged"):
        restore(copy, tmp_path / "b.sqlite")
    assert not (tmp_path / "b.sqlite").exists()


def test_a_damaged_sqlite_copy_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as store:
        fill(store)
        backup(store, tmp_path / "a.backup")
    content = bytearray((tmp_path / "a.backup").read_bytes())
    content[4096:8192] = b"\xff" * 4096
    (tmp_path / "a.backup").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        restore(tmp_path / "a.backup", tmp_path / "b.sqlite")
    assert not (tmp_path / "b.sqlite").exists()


@pytest.mark.faults
def test_f29_a_copy_is_one_moment_of_a_store_that_is_written(place: Path | str, tmp_path: Path) -> None:
    """Pairs of rows are written in one transaction each: every copy holds both or none.

    Control: what reads the two halves one after the other, as a copy by hand would, finds them apart.
    """
    stop, moments, apart = threading.Event(), [], 0
    with Store(place) as store:

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                with store.write() as connection:
                    for key in ("left", "right"):
                        add_usage(
                            connection,
                            {("2026-11-21", "t", key, "m" * 190 + str(number)): [1, 0, 0, 0, 0, 0]},
                        )

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for turn in range(10):
                backup(store, tmp_path / f"{turn}.backup")
                restore(tmp_path / f"{turn}.backup", tmp_path / f"{turn}.sqlite")
                with Store(tmp_path / f"{turn}.sqlite") as copy:
                    rows = {row["key"]: row["requests"] for row in read_usage(copy, by=("key",))}
                assert rows.get("left") == rows.get("right")
                moments.append(rows.get("left", 0))
                halves = [read_usage(store, by=("key",), key=key) for key in ("left", "right")]
                apart += halves[0][0]["requests"] != halves[1][0]["requests"]
        finally:
            stop.set()
            thread.join()
        assert moments == sorted(moments)
        assert moments[-1] > moments[0]
        assert apart > 0
