"""F26: every way to change a log behind its back is found, with the first bad sequence number; and an untouched one is not."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanok.errors import AuditError, InputError, NotFoundError
from hanok.store.audit.checkpoint import Checkpoint, Signer
from hanok.store.audit.entry import Entry, canonical, row_hash
from hanok.store.audit.keys import load_signer, load_verifier
from hanok.store.audit.log import AuditLog
from hanok.store.audit.place import AuditPlace
from hanok.store.audit.proofs import check_proof, prove_entry, prove_growth
from hanok.store.audit.reader import Reader
from hanok.store.audit.verify import verify

Change = Callable[..., None]
RENUMBER = (
    "UPDATE audit_entries SET sequence = -sequence WHERE sequence >= 20",
    "UPDATE audit_entries SET sequence = -sequence {step} WHERE sequence < 0",
)


def row_of(place: AuditPlace, sequence: int) -> dict[str, Any]:
    with Reader(place) as reader:
        return reader.find(sequence)


def put(sequence: int, row: dict[str, Any]) -> tuple[str, Any]:
    return "UPDATE audit_entries SET row = ? WHERE sequence = ?", (canonical(row).decode(), sequence)


def test_an_untouched_log_is_whole(written: AuditPlace, look: Any) -> None:
    report = look(written)
    assert (report.ok, report.problem, report.size, report.signed, report.sealed) == (True, None, 40, 40, 10)
    assert report.checkpoints == 8  # four in the log, four elsewhere


@pytest.mark.parametrize("sequence", [0, 1, 19, 20, 38, 39])
def test_edited(written: AuditPlace, look: Any, change: Change, sequence: int) -> None:
    row = row_of(written, sequence)
    change(written, put(sequence, {**row, "facts": {"number": -1}}))
    report = look(written, outside=False)
    assert not report.ok
    assert report.first_bad == sequence


@pytest.mark.parametrize("field", ["kind", "actor", "tenant", "time"])
def test_columns_that_lists_are_filtered_by(
    written: AuditPlace, look: Any, change: Change, field: str
) -> None:
    change(written, f"UPDATE audit_entries SET {field} = {field} || '1' WHERE sequence = 23")
    assert look(written, outside=False).first_bad == 23


def test_a_link_that_was_changed(written: AuditPlace, look: Any, change: Change) -> None:
    change(written, put(20, {**row_of(written, 20), "previous": "00" * 32}))
    assert look(written, outside=False).first_bad == 20


@pytest.mark.parametrize("sequence", [0, 17, 39])
def test_deleted(written: AuditPlace, look: Any, change: Change, sequence: int) -> None:
    change(written, f"DELETE FROM audit_entries WHERE sequence = {sequence}")
    assert look(written, outside=False).first_bad == sequence


def test_deleted_and_closed_up(written: AuditPlace, look: Any, change: Change) -> None:
    closed = [statement.format(step="- 1") for statement in RENUMBER]
    change(
        written, "DELETE FROM audit_entries WHERE sequence = 19", *closed, "UPDATE audit_head SET size = 39"
    )
    assert look(written, outside=False).first_bad == 19


def test_reordered(written: AuditPlace, look: Any, change: Change) -> None:
    moves = ((12, -1), (13, 12), (-1, 13))
    change(
        written, *(f"UPDATE audit_entries SET sequence = {new} WHERE sequence = {old}" for old, new in moves)
    )
    assert look(written, outside=False).first_bad == 12
    rows = {number: row_of(written, number) for number in (12, 13)}
    for number, row in rows.items():
        change(written, put(number, {**row, "sequence": number}))  # and renumbered within
    assert look(written, outside=False).first_bad == 12


def test_inserted(written: AuditPlace, look: Any, change: Change) -> None:
    opened = [statement.format(step="+ 1") for statement in RENUMBER]
    change(written, *opened, "INSERT INTO audit_entries SELECT 20, time, kind, tenant, actor, row FROM audit_entries "
           "WHERE sequence = 19", "UPDATE audit_head SET size = 41")  # fmt: skip
    assert look(written, outside=False).first_bad == 20


@pytest.mark.parametrize("sequence", [-1, 40, 1000])
def test_inserted_beyond_the_ends(written: AuditPlace, look: Any, change: Change, sequence: int) -> None:
    change(written, f"INSERT INTO audit_entries SELECT {sequence}, time, kind, tenant, actor, row FROM audit_entries "
           "WHERE sequence = 39")  # fmt: skip
    report = look(written, outside=False)
    assert not report.ok
    assert report.first_bad == min(sequence, 40)


def _cut(place: AuditPlace, change: Change, size: int) -> None:
    """The tail off, and the head and the log's own checkpoints as if it had never been: whoever does it knows what he does."""
    with Reader(place) as reader:
        rows = [found.row for piece in reader.pieces(size) for found in piece]
    change(
        place, f"DELETE FROM audit_entries WHERE sequence >= {size}", f"DELETE FROM audit_contents WHERE sequence >= {size}",
        ("UPDATE audit_head SET size = ?, last_hash = ?, signed = ?", (size, row_hash(rows[-1].encode()), 30)),
        f"DELETE FROM audit_checkpoints WHERE size > {size}",
    )  # fmt: skip


def test_a_cut_end_shows_outside_alone(written: AuditPlace, look: Any, change: Change) -> None:
    _cut(written, change, 33)
    assert look(written, outside=False).ok  # the negative control: the chain alone does not see it
    report = look(written)
    assert (report.ok, report.first_bad) == (False, 33)
    assert "40" in report.problem


def test_an_old_backup_shows_outside_alone(written: AuditPlace, look: Any) -> None:
    path, copy = Path(written.log), Path(f"{written.log}.copy")  # type: ignore[arg-type]
    shutil.copy(path, copy)
    with AuditLog(written) as log:
        for number in range(7):
            log.append(Entry(kind="request", facts={"later": number})).result(10)
    assert look(written).size == 47
    shutil.copy(copy, path)
    assert look(written, outside=False).ok
    assert look(written).first_bad == 40


def test_another_file_shows(written: AuditPlace, look: Any, tmp_path: Path) -> None:
    other = AuditPlace(tmp_path / "other" / "log.sqlite", tmp_path / "other")
    with AuditLog(other) as log:
        for number in range(50):
            log.append(Entry(kind="request", facts={"number": number}), patient=True)
    shutil.copy(other.log, written.log)
    assert look(written).first_bad == 0  # by the key
    for name in (
        "verifier.key",
        "signing.key",
    ):  # and the key with it: the checkpoints elsewhere are not that key's
        shutil.copy(other.folder / name, written.folder / name)
    assert look(written, outside=False).ok
    assert look(written).first_bad == 0


def test_the_first_bad_row_lies_behind_the_last_good_checkpoint(
    written: AuditPlace, look: Any, change: Change
) -> None:
    """Rows from 25 on are written anew, with all links, and the log's own checkpoints taken away."""
    with Reader(written) as reader:
        rows = [json.loads(found.row) for piece in reader.pieces(40) for found in piece]
    last = row_hash(canonical(rows[24]))
    for number in range(25, 40):
        row = {
            **rows[number],
            "actor": rows[number]["actor"],
            "facts": {"number": -number},
            "previous": last.hex(),
        }
        change(written, put(number, row))
        last = row_hash(canonical(row))
    change(
        written,
        ("UPDATE audit_head SET last_hash = ?", (last,)),
        "DELETE FROM audit_checkpoints WHERE size > 20",
    )
    assert look(written, outside=False).ok
    report = look(written)
    assert (report.ok, report.first_bad) == (False, 20)
    assert "20 to 29" in report.problem


def test_checkpoints_of_another_hand(written: AuditPlace, look: Any) -> None:
    assert written.mirror is not None
    own = load_signer(written.folder)
    forger = Signer(own.name, Ed25519PrivateKey.generate())
    with written.mirror.open("a") as file:
        file.write("\n" + forger.sign(Checkpoint(own.name, 40, bytes(32), 0.0)))
    report = look(written)
    assert not report.ok
    assert "not signed" in report.problem


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE audit_contents SET ciphertext = CAST(ciphertext || x'00' AS BLOB) WHERE sequence = 8", 8),
        ("UPDATE audit_contents SET nonce = zeroblob(12) WHERE sequence = 12", 12),
        ("UPDATE audit_contents SET subject = 's_0' WHERE sequence = 12", 12),
        ("DELETE FROM audit_contents WHERE sequence = 16", 16),
        (
            "INSERT INTO audit_contents SELECT 17, time, subject, nonce, ciphertext FROM audit_contents WHERE sequence = 16",
            17,
        ),
        ("UPDATE audit_subjects SET wrapped = NULL WHERE name = 'u1'", 4),
        ("DELETE FROM audit_subjects WHERE name = 'u2'", 8),
    ],
)
def test_content_that_was_changed_or_taken_away(
    written: AuditPlace, look: Any, change: Change, statement: str, bad: int
) -> None:
    change(written, statement)
    report = look(written, outside=False)
    assert (report.ok, report.first_bad) == (False, bad)


def test_a_key_that_came_back(written: AuditPlace, look: Any, change: Change) -> None:
    with AuditLog(written) as log:
        assert log.forget("t", "u0").result(10) == 1
    assert look(written).ok
    change(written, "UPDATE audit_subjects SET wrapped = x'00' WHERE wrapped IS NULL")
    assert look(written).first_bad == 40


def test_a_flipped_bit_anywhere(written: AuditPlace, look: Any) -> None:
    """Of a row: whatever SQLite makes of it, the log is not believed."""
    path = Path(written.log)  # type: ignore[arg-type]
    raw = path.read_bytes()
    places = [
        match.start() - 30 + 7 * (number % 20)
        for number, match in enumerate(re.finditer(b'"kind":"request"', raw))
    ]
    assert len(places) == 40
    for at in places:
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with contextlib.suppress(InputError):
            assert not look(written, outside=False).ok, (at, raw[at - 40 : at + 40])
    path.write_bytes(raw)
    assert look(written).ok


def test_a_proof_stands_alone(written: AuditPlace) -> None:
    verifier = load_verifier(written.folder)
    with Reader(written) as reader:
        proof = prove_entry(reader, verifier, 17)
        with pytest.raises(NotFoundError):
            prove_entry(reader, verifier, 40)
        first = reader.notes()[0]
        growth = prove_growth(reader, verifier, first)
    proof, growth = json.loads(json.dumps(proof)), json.loads(json.dumps(growth))
    shown = check_proof(proof, verifier)
    assert (shown["sequence"], shown["size"], shown["entry"]["facts"]["number"]) == (17, 40, 17)
    assert check_proof(growth, verifier) == {"holds": True, "older": 10, "size": 40}
    bad = [
        {**proof, "sequence": 18},
        {**proof, "row": proof["row"].replace("17", "18")},
        {**proof, "path": proof["path"][1:]},
        {**proof, "checkpoint": first},
        {**growth, "path": growth["path"][:-1]},
        {**growth, "older": proof["checkpoint"], "checkpoint": first},
        {**proof, "checkpoint": proof["checkpoint"].replace("\n40\n", "\n41\n")},
    ]
    for one in bad:
        with pytest.raises(AuditError):
            check_proof(one, verifier)
    for one in ({}, {**proof, "path": ["x"]}):
        with pytest.raises(InputError, match="no proof"):
            check_proof(one, verifier)
    with pytest.raises(AuditError, match="signed"):
        check_proof(proof, replace(verifier, public=bytes(32)))


def test_growth_from_what_was_not_there(written: AuditPlace, change: Change) -> None:
    verifier = load_verifier(written.folder)
    with Reader(written) as reader:
        first = reader.notes()[0]
        change(written, put(3, {**row_of(written, 3), "facts": {}}))
        with pytest.raises(AuditError, match="first 10 entries"):
            prove_growth(reader, verifier, first)


def test_a_head_that_is_gone(written: AuditPlace, look: Any, change: Change) -> None:
    change(written, "DELETE FROM audit_head")
    assert look(written).first_bad == 0


def test_checkpoints_that_cannot_be_read(written: AuditPlace) -> None:
    with pytest.raises(InputError, match="cannot be read"), Reader(written) as reader:
        verify(reader, load_verifier(written.folder), outside=[written.folder / "nothing"])
