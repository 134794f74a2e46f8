"""The log: entries from any thread, written by one thread over one connection, many in each transaction.

An entry is acknowledged (its future has its sequence number) when it is on the disk. Whoever waits pays for one commit, shared
with all who came meanwhile; entries that nobody waits for may be `patient`, so that a quiet server does not commit for each.
However many of these wait, what somebody waits for goes into the next transaction.
Several processes may write to one log: each transaction takes the end of the log from the database, under its lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from hanok.errors import CapacityError, HanokError
from hanok.reporting import log
from hanok.store.audit.entry import CONTENT_LEFT_OUT, LOST, Entry, weigh
from hanok.store.audit.keys import load_or_make
from hanok.store.audit.place import AuditPlace
from hanok.store.audit.writer import Transaction, Writer

_RETRY = (0.05, 5.0)  # seconds, first and longest, between tries where the database cannot be written
_BATCH_BYTES = 32 << 20  # of content in one transaction: who waits behind it does not wait for long
_SLOW = 3.0  # seconds of one transaction
_KEPT = 10  # one place of so many is for entries that somebody waits for
_LOOK = 3600.0  # seconds between looks for content that is too old


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Args:
    patience: seconds that a patient entry may wait for company.
    checkpoint_rows, checkpoint_seconds: a checkpoint is signed after so many rows, or so long after the first unsigned one.
    most_rows: of a transaction. most_waiting: entries in memory while the database cannot be written; a tenth of them is kept for
        those that somebody waits for; patient ones beyond the rest are counted, and the count is an entry.
    most_bytes: of content in memory that waits; beyond it patient entries go without theirs, and say so.
    content_days: older content is deleted; None: never.
    """

    patience: float = 0.25
    checkpoint_rows: int = 1000
    checkpoint_seconds: float = 10.0
    most_rows: int = 1000
    most_waiting: int = 100_000
    most_bytes: int = 256 << 20
    content_days: float | None = None


@dataclass(slots=True)
class LogNumbers:
    """Since the log was opened; `waiting` now."""

    entries: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    failures: int = 0
    lost: int = 0
    left_out: int = 0  # contents
    waiting: int = 0
    size: int = 0
    signed: int = 0
    mirror_failures: int = 0


@dataclass(slots=True)
class _Job:
    """`work` runs inside of the transaction; what it returns becomes the future's result once that is durable."""

    work: Callable[[Transaction], Any]
    future: Future[Any]
    due: float
    patient: bool = False
    weight: int = 0  # bytes of content
    number: int = 0  # as they came


class AuditLog:
    """Open with `AuditLog(place)`, close when done. Safe to call from several threads.

    Raises:
        ConfigError: keys that cannot be used, or are not those of this log.
        InputError: a log whose end is damaged, or older than its own checkpoints.
    """

    def __init__(
        self,
        place: AuditPlace,
        *,
        settings: LogSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.place, self.settings, self._clock = place, settings or LogSettings(), clock
        self.keys = load_or_make(place.folder)
        self._writer = Writer(place, self.keys)
        self._numbers = LogNumbers(size=self._writer.size, signed=self._writer.signed)
        self._pressing: deque[_Job] = deque()  # somebody waits for these
        self._patient: deque[_Job] = deque()
        self._came = self._weight = 0
        self._wake = threading.Condition()
        self._closing = False
        self._lost = 0
        self.problem: str | None = None  # why nothing can be written at the moment
        self._next_look = time.monotonic() if self.settings.content_days is not None else float("inf")
        self._give_up = float("inf")
        self._began: float | None = None  # the transaction under way
        self._retry, self._wait = 0.0, _RETRY[0]
        self._thread = threading.Thread(target=self._run, name="hanok-audit", daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        return self.keys.signer.name

    def append(self, entry: Entry, *, patient: bool = False) -> Future[int]:
        """The sequence number, once the entry is on the disk."""
        entry = entry if entry.time else replace(entry, time=self._clock())
        weight = 0 if entry.content is None else weigh(entry.content)
        with self._wake:
            if patient and weight and self._weight + weight > self.settings.most_bytes:
                entry = replace(entry, content=None, facts={**entry.facts, CONTENT_LEFT_OUT: True})
                weight, self._numbers.left_out = 0, self._numbers.left_out + 1
            return self._submit(lambda transaction: transaction.add(entry), patient=patient, weight=weight)

    def append_and_forget(self, entry: Entry, subject: str | None = None) -> Future[int]:
        """Tell of a deletion, and destroy the keys of what was deleted, of the entry's tenant: both or neither. As `forget`."""
        entry = entry if entry.time else replace(entry, time=self._clock())

        def work(transaction: Transaction) -> int:
            transaction.add(entry)
            return transaction.forget(entry.tenant, subject, actor=entry.actor, now=self._clock())

        return self._submit(work)

    def forget(self, tenant: str, subject: str | None = None, *, actor: str = "") -> Future[int]:
        """Destroy the key of a subject, or of all of a tenant: how many there were. The rows stay, and can be verified."""
        return self._submit(
            lambda transaction: transaction.forget(tenant, subject, actor=actor, now=self._clock())
        )

    def expire(self, before: float) -> Future[int]:
        """Delete content of entries before this time: how much there was."""
        return self._submit(lambda transaction: transaction.expire(before, now=self._clock()))

    def checkpoint(self) -> Future[str]:
        """Sign what is there now: the note."""
        return self._submit(lambda transaction: transaction.sign(self._clock()))

    def trouble(self) -> str | None:
        """Why nothing can be written at the moment: the last transaction failed, or this one takes too long."""
        began = self._began
        if self.problem is None and began is not None and time.monotonic() - began > _SLOW:
            return f"the disk has not answered for {time.monotonic() - began:.0f} seconds"
        return self.problem

    def numbers(self) -> LogNumbers:
        with self._wake:
            return replace(self._numbers, waiting=self._waiting)

    def close(self, timeout: float = 30.0) -> None:
        """Write what waits, sign it, end the thread. What cannot be written in this time is lost, and the log says so."""
        with self._wake:
            if self._closing:
                return
            self._closing, self._give_up = True, time.monotonic() + 0.8 * timeout
            self._wake.notify()
        self._thread.join(timeout)
        if self._thread.is_alive() or self._waiting:
            log.error("the audit cannot be written (%s): %d entries are lost", self.problem, self._waiting)
        self._writer.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # ---- inside ---------------------------------------------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        return len(self._pressing) + len(self._patient)

    def _submit(
        self, work: Callable[[Transaction], Any], *, patient: bool = False, weight: int = 0
    ) -> Future[Any]:
        future: Future[Any] = Future()
        with self._wake:
            if self._closing:
                future.set_exception(CapacityError("the audit is closed"))
            elif self._waiting >= self._room(patient):
                self._lost += patient
                self._numbers.lost += patient
                future.set_exception(
                    CapacityError(
                        "the audit cannot be written and no more can wait", remedy="the server's log says why"
                    )
                )
            else:
                due = time.monotonic() + (self.settings.patience if patient else 0.0)
                self._came += 1
                self._weight += weight
                queue = self._patient if patient else self._pressing
                queue.append(_Job(work, future, due, patient, weight, self._came))
                if not patient or len(queue) == 1 or self._waiting == self.settings.most_rows:
                    self._wake.notify()
        return future

    def _room(self, patient: bool) -> int:
        most = self.settings.most_waiting
        return most - max(1, most // _KEPT) if patient else most

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch or self._writer.unsigned_since is not None or time.monotonic() >= self._next_look:
                self._commit(batch)
        if self._writer.unsigned_since is not None and self.problem is None:
            self._commit([_Job(lambda transaction: transaction.sign(self._clock()), Future(), 0.0)])

    def _next(self) -> list[_Job] | None:
        """What is to be written now, in order; empty: something else is due; None: the end."""
        with self._wake:
            while True:
                now = time.monotonic()
                if self._closing and (
                    not self._waiting or (self.problem is not None and now > self._give_up)
                ):
                    return None
                if self._retry > now:  # the database could not be written
                    self._wake.wait(self._retry - now)
                    continue
                due = self._due()
                if self._closing or due <= now:
                    return self._batch()
                self._wake.wait(min(due - now, _LOOK))

    def _batch(self) -> list[_Job]:
        """First all that somebody waits for, then as many others as there is room for; among each other as they came."""
        batch: list[_Job] = []
        weight = 0
        for queue in (self._pressing, self._patient):
            while queue and len(batch) < self.settings.most_rows and weight < _BATCH_BYTES:
                batch.append(queue.popleft())
                weight += batch[-1].weight
        return sorted(batch, key=lambda job: job.number)

    def _due(self) -> float:
        """When the next transaction is to begin, on the monotonic clock."""
        times = [self._next_look]
        if self._writer.unsigned_since is not None:
            times.append(self._writer.unsigned_since + self.settings.checkpoint_seconds)
        if self._waiting >= self.settings.most_rows:
            times.append(0.0)
        times += [queue[0].due for queue in (self._pressing, self._patient) if queue]
        return min(times)

    def _commit(self, batch: Sequence[_Job]) -> None:
        self._began = began = time.monotonic()
        try:
            results, note = self._write(batch)
        except SQLAlchemyError as error:
            self._failed(batch, error)
            return
        except (
            Exception
        ) as error:  # of our own making: whoever waits must hear of it, and the thread must live
            log.error("the audit failed", exc_info=error)
            self._settled(batch)
            for job in batch:
                job.future.set_exception(error)
            return
        finally:
            self._began = None
        self._settled(batch)
        self._succeeded(time.monotonic() - began)
        if note is not None:
            self._numbers.mirror_failures += self._writer.publish(note)
        for job, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            elif not job.future.cancelled():
                job.future.set_result(result)

    def _settled(self, batch: Sequence[_Job]) -> None:
        with self._wake:
            self._weight -= sum(job.weight for job in batch)

    def _write(self, batch: Sequence[_Job]) -> tuple[list[Any], str | None]:
        results: list[Any] = []
        lost = self._lost
        with self._writer.transaction() as transaction:
            if lost:
                transaction.add(Entry(kind=LOST, facts={"count": lost}, time=self._clock()))
            for job in batch:
                try:
                    results.append(job.work(transaction))
                except (
                    ValueError,
                    TypeError,
                    RecursionError,
                    HanokError,
                ) as error:  # an entry that has no JSON form
                    results.append(error)
            if time.monotonic() >= self._next_look and self.settings.content_days is not None:
                transaction.expire(self._clock() - self.settings.content_days * 86_400, now=self._clock())
            if self._signing_is_due(transaction):
                transaction.sign(self._clock())
        with self._wake:
            self._lost -= lost
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK
        return results, transaction.note

    def _signing_is_due(self, transaction: Transaction) -> bool:
        if transaction.unsigned >= self.settings.checkpoint_rows:
            return True
        since = self._writer.unsigned_since
        return since is not None and time.monotonic() >= since + self.settings.checkpoint_seconds

    def _succeeded(self, seconds: float) -> None:
        if self.problem is not None:
            log.info("the audit can be written again")
        with self._wake:
            self.problem, self._retry = None, 0.0
            numbers = self._numbers
            numbers.entries += self._writer.added
            numbers.commits += 1
            numbers.commit_seconds += seconds
            numbers.size, numbers.signed = self._writer.size, self._writer.signed
            self._wait = _RETRY[0]

    def _failed(self, batch: Sequence[_Job], error: SQLAlchemyError) -> None:
        """Nothing was written: try the same again later."""
        with self._wake:
            if self.problem is None:
                log.error("the audit cannot be written: %s", error)
            self.problem = str(getattr(error, "orig", None) or error)
            self._numbers.failures += 1
            for queue, patient in ((self._pressing, False), (self._patient, True)):
                queue.extendleft(job for job in reversed(batch) if job.patient is patient)
            self._retry = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, _RETRY[1])
