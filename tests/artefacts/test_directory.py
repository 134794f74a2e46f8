"""Artefact directories: whole or absent, hashed, with lineage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hanok.artefacts import (
    MANIFEST,
    append_jsonl,
    create_artefact,
    open_artefact,
    read_jsonl,
    remove_orphans,
    write_atomic,
)
from hanok.errors import ArtefactError


def make(path: Path, text: str = "hello", **options) -> None:
    with create_artefact(path, kind="corpus", **options) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "file.txt").write_text(text)
        (draft.path / "report.html").write_text("log")
        draft.metrics["documents"] = 1


def test_round_trip_with_lineage(tmp_path: Path) -> None:
    make(tmp_path / "a")
    parent = open_artefact(tmp_path / "a", kind="corpus")
    make(tmp_path / "b", "other", parents={"corpus": parent}, step={"seed": 1})
    child = open_artefact(tmp_path / "b")
    assert child.parents == {"corpus": parent.hash}
    assert child.step == {"seed": 1}
    assert list(child.files) == ["sub/file.txt"]  # the report lies outside the hashed set


def test_same_content_same_hash(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert open_artefact(tmp_path / "a").hash == open_artefact(tmp_path / "b").hash


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), create_artefact(tmp_path / "a", kind="corpus") as draft:
        (draft.path / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_failed_overwrite_keeps_the_old(tmp_path: Path) -> None:
    make(tmp_path / "a")
    before = open_artefact(tmp_path / "a").hash
    with pytest.raises(RuntimeError), create_artefact(tmp_path / "a", kind="corpus", overwrite=True):
        raise RuntimeError
    assert open_artefact(tmp_path / "a").hash == before


def test_existing_is_refused_unless_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtefactError, match="already exists"):
        make(tmp_path / "a")
    make(tmp_path / "a", "new", overwrite=True)
    assert (tmp_path / "a" / "sub" / "file.txt").read_text() == "new"


def flip_bit(path: Path) -> None:
    file = path / "sub" / "file.txt"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(bytes(data))


def edit_manifest(path: Path, **changes) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_bit, "does not match the hash"),
        (lambda path: (path / "sub" / "file.txt").unlink(), "is missing"),
        (
            lambda path: (path / "sub" / "file.txt").write_text("longer than before"),
            "bytes where the manifest says",
        ),
        (lambda path: (path / MANIFEST).write_text("{"), "not a readable manifest"),
        (lambda path: edit_manifest(path, format=99), "format 99"),
        (lambda path: edit_manifest(path, parents={"x": "y"}), "its own hash"),
        (lambda path: edit_manifest(path, kind="model"), 'of kind "model", expected corpus'),
    ],
)
def test_damage_is_refused(tmp_path: Path, damage, message: str) -> None:
    make(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(ArtefactError, match=message):
        open_artefact(tmp_path / "a", kind="corpus")


def test_a_damaged_parent_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    flip_bit(tmp_path / "a")
    with pytest.raises(ArtefactError, match="does not match"):
        make(tmp_path / "b", parents={"corpus": tmp_path / "a"})
    assert not (tmp_path / "b").exists()


def test_a_plain_folder_is_a_root(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert open_artefact(tmp_path).kind == "external"


KILLED = """
import os, signal, sys
from pathlib import Path
from hanok.artefacts import create_artefact
with create_artefact(Path(sys.argv[1]), kind="corpus", overwrite=True) as draft:
    (draft.path / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_and_its_orphan_goes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")])
    assert done.returncode == -signal.SIGKILL
    assert open_artefact(tmp_path / "a").metrics == {"documents": 1}
    assert len(list(tmp_path.iterdir())) == 2
    remove_orphans(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_swap_cut_in_the_middle_is_finished(tmp_path: Path) -> None:
    make(tmp_path / "a")
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    os.replace(tmp_path / "a", tmp_path / f".a.{dead.stdout.strip()}-00000000.old")
    remove_orphans(tmp_path / "a")
    assert open_artefact(tmp_path / "a").metrics == {"documents": 1}


def test_copy_is_still_valid(tmp_path: Path) -> None:
    make(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "moved" / "elsewhere")
    assert open_artefact(tmp_path / "moved" / "elsewhere").hash == open_artefact(tmp_path / "a").hash


def test_write_atomic_failure_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "f", "old")

    def full(*_args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_jsonl_names_the_broken_line(tmp_path: Path) -> None:
    append_jsonl(tmp_path / "m.jsonl", {"a": "한옥"}, fsync=True)
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write("{cut")
    with pytest.raises(ArtefactError, match="line 2"):
        list(read_jsonl(tmp_path / "m.jsonl"))
