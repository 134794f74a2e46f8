"""What happens inside of one transaction of the log, and where its checkpoints go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, event, func, insert, select, text, update
from sqlalchemy.engine import CursorResult

from hanok.artefacts.files import fsync_dir
from hanok.errors import ConfigError, InputError
from hanok.reporting import log
from hanok.store.audit.checkpoint import Checkpoint, Verifier, notes_in
from hanok.store.audit.entry import (
    EXPIRED,
    FORGOTTEN,
    HASH_BYTES,
    Entry,
    origin_hash,
    row_hash,
    row_of,
    sealed_hash,
)  # fmt: skip
from hanok.store.audit.keys import AuditKeys
from hanok.store.audit.merkle import EMPTY, Frontier, leaf_hash
from hanok.store.audit.place import AuditPlace
from hanok.store.audit.sealing import EVERYBODY, Vault, destroy
from hanok.store.audit.tables import (
    check_format,
    checkpoints,
    contents,
    entries,
    head,
    make_tables,
    subjects,
)  # fmt: skip
from hanok.store.connection import connect, writing

_TAIL = 1000  # rows that are looked at when a log is opened
_IDS = 500  # subjects in one entry


class Writer:
    """One connection to a log, for one thread.

    Raises:
        ConfigError: the signing key is another log's. InputError: the log's end is damaged, or older than its checkpoints.
    """

    def __init__(self, place: AuditPlace, keys: AuditKeys) -> None:
        self._place, self._keys = place, keys
        self._vault = Vault(keys.master, keys.signer.name)
        self._engine = open_engine(place)
        self.size = self.signed = self.added = 0
        self.unsigned_since: float | None = None  # on the monotonic clock
        try:
            make_tables(self._engine, str(keys.signer.verifier), origin_hash(keys.signer.name))
            with writing(self._engine).begin() as connection:
                row = _head(connection)
                self._check_whose(row.format, row.verifier)
                check_tail(connection, row.size, row.last_hash, keys.signer.name)
                check_newest(place, row.size, keys.signer.verifier)
        except BaseException:
            self._engine.dispose()
            raise
        self.size, self.signed = row.size, row.signed
        self.unsigned_since = time.monotonic() if row.size > row.signed else None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Durable when it has ended; whatever is raised inside leaves nothing."""
        with writing(self._engine).begin() as connection:
            if connection.dialect.name == "postgresql":  # whatever the server's default is
                connection.execute(text("SET LOCAL synchronous_commit = on"))
            transaction = Transaction(connection, self._keys, self._vault)
            yield transaction
            transaction.flush()
        before = self.size
        self.size, self.signed, self.added = transaction.frontier.size, transaction.signed, transaction.added
        if self.size == self.signed:
            self.unsigned_since = None
        elif self.unsigned_since is None or transaction.note is not None or self.size < before:
            self.unsigned_since = time.monotonic()

    def publish(self, note: str) -> int:
        """To the folder and the mirror; how many could not be written to."""
        failures = 0
        for path in (self._place.notes, self._place.mirror):
            if path is None:
                continue
            try:
                _append(path, note)
            except OSError as error:
                failures += 1
                log.error("the checkpoint cannot be written to %s (%s)", path, error.strerror)
        return failures

    def close(self) -> None:
        self._engine.dispose()

    def _check_whose(self, found: int, verifier: str) -> None:
        check_format(found)
        if verifier != str(self._keys.signer.verifier):
            raise ConfigError(
                f"the audit is signed by {verifier.partition('+')[0]}, and the key in {self._place.folder} is "
                f"{self._keys.signer.name}",
                remedy="restore the folder of keys that it was begun with",
            )


class Transaction:
    """Rows are numbered and chained as they come, and written at the end."""

    def __init__(self, connection: Connection, keys: AuditKeys, vault: Vault) -> None:
        self._connection, self._keys, self._vault = connection, keys, vault
        row = _head(connection)
        self.frontier = Frontier(row.size, _peaks(row.peaks))
        self.signed, self.note, self.added = row.signed, None, 0
        self._last, self._signed_at = row.last_hash, row.signed_at
        self._rows: list[dict[str, Any]] = []
        self._contents: list[dict[str, Any]] = []

    @property
    def unsigned(self) -> int:
        return self.frontier.size - self.signed

    def add(self, entry: Entry) -> int:
        sequence, subject, sealed = self.frontier.size, "", None
        content: dict[str, Any] | None = None
        sealing = None
        if entry.content is not None:
            sealing = self._vault.key_for(
                self._connection, tenant=entry.tenant, name=entry.whose, now=entry.time
            )
        if entry.content is not None and sealing is not None:
            subject, key = sealing
            nonce, ciphertext = self._vault.seal(key, entry.content, sequence=sequence, subject=subject)
            sealed = sealed_hash(nonce, ciphertext)
            content = {
                "sequence": sequence, "time": entry.time, "subject": subject, "nonce": nonce, "ciphertext": ciphertext,
            }  # fmt: skip
        row = row_of(
            entry, sequence=sequence, time=entry.time, previous=self._last, subject=subject, sealed=sealed
        )
        # nothing of it is kept before all of it is there: an entry without a form in JSON leaves no gap
        if content is not None:
            self._contents.append(content)
        self._rows.append(
            {
                "sequence": sequence, "time": round(entry.time, 3), "kind": entry.kind, "tenant": entry.tenant,
                "actor": entry.actor, "row": row.decode(),
            }
        )  # fmt: skip
        self._last = row_hash(row)
        self.frontier.add(leaf_hash(row))
        self.added += 1
        return sequence

    def forget(self, tenant: str, name: str | None, *, actor: str, now: float) -> int:
        gone = destroy(self._connection, tenant=tenant, name=name, now=now)
        for start in range(0, len(gone), _IDS):
            facts = {"subjects": gone[start : start + _IDS]}
            self.add(
                Entry(kind=FORGOTTEN, tenant=tenant, target=name or "", actor=actor, facts=facts, time=now)
            )
        return len(gone)

    def expire(self, before: float, *, now: float) -> int:
        self._write_rows()
        done: CursorResult[Any] = self._connection.execute(delete(contents).where(contents.c.time < before))
        if done.rowcount:
            self.add(Entry(kind=EXPIRED, facts={"before": before, "count": done.rowcount}, time=now))
        return done.rowcount

    def sign(self, now: float) -> str:
        """Of all rows up to here; nothing is said to the outside before they are durable."""
        self._write_rows()
        signer = self._keys.signer
        root = self.frontier.root() if self.frontier.size else EMPTY
        note = signer.sign(Checkpoint(signer.name, self.frontier.size, root, now))
        self._connection.execute(delete(checkpoints).where(checkpoints.c.size == self.frontier.size))
        self._connection.execute(insert(checkpoints), {"size": self.frontier.size, "note": note})
        self.signed, self._signed_at, self.note = self.frontier.size, now, note
        return note

    def flush(self) -> None:
        self._write_rows()
        self._connection.execute(
            update(head).values(
                size=self.frontier.size, last_hash=self._last, peaks=b"".join(self.frontier.peaks), signed=self.signed,
                signed_at=self._signed_at,
            )
        )  # fmt: skip

    def _write_rows(self) -> None:
        if self._rows:
            self._connection.execute(insert(entries), self._rows)
        if self._contents:
            self._connection.execute(insert(contents), self._contents)
        self._rows, self._contents = [], []


def open_engine(place: AuditPlace) -> Engine:
    """What is deleted from a file is overwritten: a destroyed key must not be found in its free pages."""
    engine = connect(place.log)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def overwrite(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA secure_delete=ON").close()

    return engine


def check_tail(connection: Connection, size: int, last: bytes, origin: str) -> None:
    """Raises InputError unless the last rows are there and chained."""
    first = max(0, size - _TAIL)
    rows = connection.execute(
        select(entries.c.sequence, entries.c.row)
        .where(entries.c.sequence >= first)
        .order_by(entries.c.sequence)
    ).all()
    here: bytes | None = origin_hash(origin) if first == 0 else None
    for place, (sequence, row) in enumerate(rows, first):
        if sequence != place or (here is not None and f'"previous":"{here.hex()}"' not in row):
            raise _damaged(place)
        here = row_hash(row.encode())
    if first + len(rows) != size or (size and here != last):
        raise _damaged(first + len(rows))


def check_newest(place: AuditPlace, size: int, verifier: Verifier) -> None:
    """Raises InputError if a checkpoint outside of the log speaks of rows that it does not have."""
    for path in (place.notes, place.mirror):
        if path is None or not path.exists():
            continue
        for note in notes_in(path.read_text(encoding="utf-8", errors="replace")[-100_000:]):
            try:
                known = verifier.opened(note)
            except InputError:
                continue  # another log's; `audit verify` speaks of it
            if known.size > size:
                raise InputError(
                    f"the audit ends at {size} rows, and a checkpoint in {path} has {known.size}: it was put back or cut",
                    remedy="`hanok audit verify` says more; restore the newer log, or move the old one away to begin another",
                )


def _damaged(sequence: int) -> InputError:
    return InputError(
        f"the audit is damaged at entry {sequence}",
        remedy="`hanok audit verify` says more; move it away to begin another, and keep it",
    )


def _head(connection: Connection) -> Any:
    return connection.execute(select(head).with_for_update()).one()


def _peaks(packed: bytes) -> list[bytes]:
    return [bytes(packed[start : start + HASH_BYTES]) for start in range(0, len(packed), HASH_BYTES)]


def _append(path: Path, note: str) -> None:
    fresh = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        file.write(note if fresh else f"\n{note}")
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        fsync_dir(path.parent)


def live_subjects(connection: Connection) -> tuple[int, int]:
    """Keys of subjects that there are, and that were destroyed."""
    counted = select(func.count(), func.count(subjects.c.wrapped)).where(subjects.c.name != EVERYBODY)
    every, living = connection.execute(counted).one()
    return living, every - living
