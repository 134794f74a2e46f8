"""Rates and budgets that several processes share: each change is one transaction, whatever else happens. A row that says no more
than a missing one would is deleted, once a minute: sign-ins make one for every name that is tried.

A rate is GCRA: one number a meter, the theoretical arrival time TAT. With T = seconds a unit and a burst of b units, n units are
admitted at the time t iff max(t, TAT) + n T - t <= b T, and then TAT becomes max(t, TAT) + n T; given back, TAT - n T.

The time is that of the store: never earlier than any that it has seen. A process counts it on by its monotonic clock, so
that a wall clock set back neither fills a bucket nor stops it from filling.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from hanok.store.database import Store
from hanok.store.schema import meters

EXPIRY_SECONDS = 60.0
_CLOCK = "clock"


class Clock:
    """Seconds of the epoch as this process counts them; `follow` when the store has seen a later time.

    Args:
        wall, monotonic: for tests.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def now(self) -> float:
        return self._monotonic() + self._offset

    def follow(self, seen: float) -> float:
        """The later of both, which is this process's time from now on."""
        self._offset = max(self._offset, seen - self._monotonic())
        return self.now()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    per_minute: float
    burst: float

    @property
    def seconds(self) -> float:
        """Between two units."""
        return 60.0 / self.per_minute


@dataclass(frozen=True, slots=True)
class Take:
    """Units of a meter; fewer than none: given back."""

    meter: str
    rate: Rate
    units: float


def take_rates(store: Store, takes: Sequence[Take], *, clock: Clock | None = None) -> float | None:
    """All of them or none: None if they were taken, else in how many seconds they may be."""
    with store.write() as connection:
        now = time_of_store(connection, clock or Clock())
        tats = lock_meters(connection, [take.meter for take in takes])
        wait = 0.0
        for take in takes:
            late = max(now, tats[take.meter][0]) + (take.units - take.rate.burst) * take.rate.seconds - now
            wait = max(wait, late if take.units > 0 else 0.0)
        if wait > 0.0:
            return wait
        for take in takes:
            tat = tats[take.meter][0]
            start = max(now, tat) if take.units > 0 else tat
            set_meter(connection, take.meter, start + take.units * take.rate.seconds)
        note_time(connection, now)
    return None


def time_of_store(connection: Connection, clock: Clock) -> float:
    """Never earlier than any time noted; whoever reads it holds all meters until the transaction ends."""
    return clock.follow(lock_meters(connection, [_CLOCK])[_CLOCK][0])


def note_time(connection: Connection, now: float) -> None:
    """Where something was taken at this time: nobody's clock stands before it any more."""
    before = read_meters(connection, [_CLOCK])[_CLOCK][0]
    set_meter(connection, _CLOCK, now)
    if now // EXPIRY_SECONDS > before // EXPIRY_SECONDS:
        expire_meters(connection, now)


def expire_meters(connection: Connection, now: float) -> int:
    """Rates that are full, and budgets of a day or a month that is over; how many. Whoever calls it holds the clock."""
    rate, c = meters.c.period == "", meters.c
    over = c.period.not_in([period_of("day", now), period_of("month", now)])
    gone = delete(meters).where(c.id != _CLOCK, or_(and_(rate, c.at <= now), and_(~rate, over)))
    return connection.execute(gone).rowcount


def period_of(kind: str, now: float) -> str:
    """UTC's day or month."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return moment.strftime("%Y-%m-%d" if kind == "day" else "%Y-%m")


def lock_meters(connection: Connection, names: Sequence[str]) -> dict[str, tuple[float, str]]:
    """Value and period of each, made where it is missing; nobody else changes them until the transaction ends."""
    rows = [{"id": name, "at": 0.0, "period": ""} for name in sorted(set(names))]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(meters).on_conflict_do_nothing(), rows)
    wanted = select(meters).where(meters.c.id.in_([row["id"] for row in rows])).order_by(meters.c.id)
    found = connection.execute(wanted.with_for_update())
    return {row.id: (row.at, row.period) for row in found}


def read_meters(connection: Connection, names: Sequence[str]) -> dict[str, tuple[float, str]]:
    """Value and period of each, as `lock_meters` has them, of whoever only wants to know."""
    found = connection.execute(select(meters).where(meters.c.id.in_(sorted(set(names)))))
    return {**dict.fromkeys(names, (0.0, "")), **{row.id: (row.at, row.period) for row in found}}


def set_meter(connection: Connection, name: str, at: float, period: str = "") -> None:
    connection.execute(update(meters).where(meters.c.id == name).values(at=at, period=period))
