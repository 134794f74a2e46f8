"""Whether a log is what was written: every row, link and checkpoint, and that no content is missing that should be there.

What is found by what:

* edit, deletion, insertion, another order: by the numbers and links of the rows (the first bad one is known exactly);
* a chain that was computed anew, a cut end, another file, an old backup: by checkpoints that lie outside of the log (the first
  bad row is known up to the checkpoint before).

Whoever has the signing key and every copy of the checkpoints can write another history; nothing in the log can show that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import DatabaseError

from hanok.errors import InputError
from hanok.store.audit.checkpoint import Checkpoint, Verifier, notes_in
from hanok.store.audit.entry import EXPIRED, FORGOTTEN, origin_hash, row_hash, sealed_hash
from hanok.store.audit.merkle import Frontier, leaf_hash
from hanok.store.audit.reader import PIECE, Reader
from hanok.store.audit.tables import contents, entries, subjects


@dataclass(kw_only=True)
class Report:
    """Args:
    problem: what is wrong, None if nothing is. first_bad: the first sequence number that cannot be believed.
    checkpoints: how many were compared, of all places. signed: rows in the largest.
    sealed, expired, forgotten: rows with content, of those without it now by age, and subjects whose keys were destroyed.
    """

    ok: bool = True
    problem: str | None = None
    first_bad: int | None = None
    origin: str = ""
    size: int = 0
    root: str = ""
    checkpoints: int = 0
    signed: int = 0
    sealed: int = 0
    expired: int = 0
    forgotten: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        return asdict(self)


class _Bad(Exception):  # noqa: N818 - what was found, not a failure of ours
    def __init__(self, sequence: int | None, what: str) -> None:
        super().__init__(what)
        self.sequence, self.what = sequence, what


@dataclass
class _Contents:
    """What the rows say of content."""

    sealed: int = 0
    missing: list[tuple[int, float]] = field(default_factory=list)  # sequence, time
    first_of: dict[str, int] = field(default_factory=dict)  # subject to its first row
    forgotten: dict[str, int] = field(default_factory=dict)  # subject to the row that says so
    expired_before: list[tuple[int, float]] = field(default_factory=list)


def verify(reader: Reader, verifier: Verifier, *, outside: Sequence[Path] = ()) -> Report:
    """Args: verifier: the public key, from a place that whoever might change the log cannot change.
    outside: files with checkpoints; at least one should lie where the log's machine cannot rewrite it.
    """
    report, began = Report(origin=verifier.name), time.monotonic()
    try:
        _verify(reader, verifier, outside, report)
    except _Bad as bad:
        report.ok, report.problem, report.first_bad = False, bad.what, bad.sequence
    except DatabaseError as error:
        report.ok, report.problem = False, f"the file is damaged ({error.orig})"
    report.seconds = round(time.monotonic() - began, 3)
    return report


def _verify(reader: Reader, verifier: Verifier, outside: Sequence[Path], report: Report) -> None:
    try:
        found = reader.head()
    except InputError as error:
        raise _Bad(0, error.message) from error
    if found.verifier != str(verifier):
        raise _Bad(0, f"this is the log of {found.verifier.partition('+')[0]}, not of {verifier.name}")
    known = _checkpoints(reader, verifier, outside)
    report.checkpoints = sum(len(places) for places in known.values())
    report.signed = max(known, default=0)
    said = _Contents()
    frontier, last = _walk(reader, verifier.name, found.size, known, said)
    report.size, report.root, report.sealed = found.size, frontier.root().hex(), said.sealed
    if last != found.last_hash:
        raise _Bad(max(0, found.size - 1), "the end of the log does not fit its last row")
    if report.signed > found.size:
        name = known[report.signed][0][0]
        raise _Bad(
            found.size,
            f"the log ends at {found.size} rows, and a checkpoint in {name} has {report.signed}: cut, or put back",
        )
    _nothing_beyond(reader, found.size)
    _check_contents(reader, found.size, said, report)


Known = Mapping[int, Sequence[tuple[str, Checkpoint]]]


def _checkpoints(reader: Reader, verifier: Verifier, outside: Sequence[Path]) -> Known:
    """By size, with where each was found."""
    known: dict[int, list[tuple[str, Checkpoint]]] = {}
    places = [("the log", reader.notes())]
    for path in outside:
        try:
            places.append((str(path), list(notes_in(path.read_text(encoding="utf-8")))))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read ({error})", remedy="name a file of checkpoints"
            ) from error
    for name, notes in places:
        ours = [note for note in notes if note.startswith(f"{verifier.name}\n")]
        if notes and not ours:
            raise _Bad(0, f"the checkpoints in {name} are another log's: {notes[-1].splitlines()[0]}")
        for note in ours:
            try:
                checkpoint = verifier.opened(note)
            except InputError as error:
                size = note.splitlines()[1]
                raise _Bad(
                    None, f"the checkpoint of {size} rows in {name} was not signed by this log's key"
                ) from error
            known.setdefault(checkpoint.size, []).append((name, checkpoint))
    return known


def _walk(reader: Reader, origin: str, size: int, known: Known, said: _Contents) -> tuple[Frontier, bytes]:
    """Raises _Bad at the first row that is not what the next one, or a checkpoint, says it is."""
    frontier, last, believed = Frontier(), origin_hash(origin), 0
    for piece, sealed in _pieces(reader, size):
        for place, found in enumerate(piece):
            at = frontier.size
            if found.sequence != at:
                raise _Bad(at, f"entry {at} is missing")
            row = found.row.encode("utf-8", "surrogatepass")
            fields = _fields(found, at)
            if fields["previous"] != last.hex():
                raise _blame(at, piece, place)
            _note_content(fields, found, sealed.pop(at, None), said)
            last = row_hash(row)
            frontier.add(leaf_hash(row))
            for name, checkpoint in known.get(frontier.size, ()):
                if checkpoint.root != frontier.root():
                    raise _blame_by_checkpoint(reader, believed, at, last, name)
                believed = frontier.size
        if sealed:
            raise _Bad(min(sealed), f"entry {min(sealed)} has content that it does not speak of")
    if frontier.size != size:
        raise _Bad(
            frontier.size,
            f"entry {frontier.size} is missing: the log ends there, and says that it has {size} rows",
        )
    return frontier, last


def _pieces(reader: Reader, size: int) -> Iterator[tuple[list[Any], dict[int, Any]]]:
    """Rows, and contents by sequence. Where some cannot be read, raises _Bad with the first that cannot."""
    for first in range(0, size, PIECE):
        last = min(first + PIECE, size)
        try:
            yield reader.piece(first, last), reader.sealed(first, last)
        except DatabaseError as error:
            for at in range(first, last):
                try:
                    reader.piece(at, at + 1)
                    reader.sealed(at, at + 1)
                except DatabaseError:
                    raise _Bad(at, f"the file is damaged where entry {at} lies ({error.orig})") from error
            raise


def _fields(found: Any, at: int) -> dict[str, Any]:
    try:
        fields = json.loads(found.row)
        columns = found.sequence, found.kind, found.tenant, found.actor, found.time
        same = tuple(fields[name] for name in ("sequence", "kind", "tenant", "actor", "time")) == columns
        same &= {"sealed", "subject", "facts", "previous"} <= set(fields)
    except (ValueError, KeyError, TypeError) as error:
        raise _Bad(at, f"entry {at} is no row of an audit") from error
    if not same:
        raise _Bad(at, f"entry {at} says something else than its columns")
    return fields


def _blame(at: int, piece: Sequence[Any], place: int) -> _Bad:
    """A link between two rows is broken: which was changed? If the later one's link to its successor holds, it is whole."""
    if at == 0:
        return _Bad(0, "the first entry belongs to another log")
    following = piece[place + 1] if place + 1 < len(piece) else None
    whole = (
        following is not None and f'"previous":"{row_hash(piece[place].row.encode()).hex()}"' in following.row
    )
    bad = at if following is not None and not whole else at - 1
    return _Bad(bad, f"entry {bad} was changed: the chain breaks between {at - 1} and {at}")


def _blame_by_checkpoint(reader: Reader, believed: int, at: int, here: bytes, name: str) -> _Bad:
    """Rows up to `at` are not those that were signed, though they hang together. If what follows does not hang on to the last
    of them, it is that one alone."""
    following = reader.piece(at + 1, at + 2)
    fits = f'"previous":"{here.hex()}"' in following[0].row if following else reader.head().last_hash == here
    if not fits:
        return _Bad(at, f"entry {at} was changed: the chain breaks behind it")
    return _Bad(
        believed, f"entries {believed} to {at} are not those that the checkpoint in {name} was signed for"
    )


def _note_content(fields: Mapping[str, Any], found: Any, content: Any, said: _Contents) -> None:
    at, kind = found.sequence, found.kind
    if fields["sealed"] is not None:
        said.sealed += 1
        said.first_of.setdefault(fields["subject"], at)
        if content is None:
            said.missing.append((at, found.time))
        elif (
            not isinstance(content.nonce, bytes)
            or not isinstance(content.ciphertext, bytes)
            or sealed_hash(content.nonce, content.ciphertext).hex() != fields["sealed"]
            or content.subject != fields["subject"]
        ):
            raise _Bad(at, f"the content of entry {at} was changed")
    elif content is not None:
        raise _Bad(at, f"entry {at} has content that it does not speak of")
    if kind == FORGOTTEN:
        said.forgotten.update(dict.fromkeys(fields["facts"]["subjects"], at))
    elif kind == EXPIRED:
        said.expired_before.append((at, fields["facts"]["before"]))


def _nothing_beyond(reader: Reader, size: int) -> None:
    """A writer may have gone on meanwhile; then the log's end has too."""
    with reader.connection() as connection:
        low, high = connection.execute(
            select(func.min(entries.c.sequence), func.max(entries.c.sequence))
        ).one()
    if low is not None and low < 0:
        raise _Bad(low, f"entry {low} stands before the first")
    if high is not None and high >= max(size, reader.head().size):
        raise _Bad(size, f"there are entries beyond the end of the log, up to {high}")


def _check_contents(reader: Reader, size: int, said: _Contents, report: Report) -> None:
    for at, moment in said.missing:
        if not any(row > at and moment < before for row, before in said.expired_before):
            raise _Bad(at, f"the content of entry {at} is missing, and no entry says that it was deleted")
    report.expired, report.forgotten = len(said.missing), len(said.forgotten)
    with reader.connection() as connection:
        living = {
            row.id: row.wrapped is not None
            for row in connection.execute(select(subjects.c.id, subjects.c.wrapped))
        }
        stray = connection.execute(select(func.max(contents.c.sequence))).scalar()
    if stray is not None and stray >= max(size, reader.head().size):
        raise _Bad(size, "there is content of entries that are not there")
    for subject, at in said.first_of.items():
        if subject not in living:
            raise _Bad(at, f"the key of {subject}, whose first content is that of entry {at}, is missing")
        if not living[subject] and subject not in said.forgotten:
            raise _Bad(at, f"the key of {subject} (entry {at}) was destroyed, and no entry says so")
    for subject, at in said.forgotten.items():
        if living.get(subject):
            raise _Bad(at, f"entry {at} says that {subject} was forgotten, and its key is there again")
