"""Drawing on rates, budgets and places for answers: what is needed or nothing, and a little ahead where there is enough.

What a process has drawn ahead it spends without asking again, so most requests write nothing. It gives back what it does not
use; what it held when it was killed stays spent (a rate or a budget), or is free again after ten seconds (places), so no crash
and no restart gives anybody more than the limit.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from hanok.store.meters import Clock, lock_meters, note_time, period_of, read_meters, set_meter, time_of_store
from hanok.store.schema import places

HELD_SECONDS = 10.0  # that places stay taken without a word from the process that took them
_ROUNDING = 1e-6  # of a unit
Kind = Literal["minute", "day", "month", "places"]


@dataclass(frozen=True, slots=True)
class Want:
    """Args:
    cap: units a minute (which is the burst too), a day or a month, or at a time.
    need: without which nothing is drawn. extra: that would be welcome. Fewer than none: given back, whatever the cap.
    mine: places that this process holds already. force: it was used, so it is taken whether it is there or not.
    """

    meter: str
    kind: Kind
    cap: float
    need: float
    extra: float = 0.0
    mine: float = 0.0
    force: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """`left`: units that anybody could still draw. `reset`: seconds until all of them are there again."""

    units: float
    left: float
    reset: float


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing was drawn, for want of this; in `wait` seconds there may be enough."""

    want: Want
    left: float
    wait: float


@dataclass(slots=True)
class _State:
    left: float
    full: float  # seconds until nothing is taken any more
    at: float
    period: str


Answer = Mapping[str, Drawn] | Short


def draw(
    connection: Connection, groups: Sequence[Sequence[Want]], *, clock: Clock, process: str
) -> list[Answer]:
    """For each group, in turn: all of its wants by their meters, or what it was short of. In one transaction."""
    now = time_of_store(connection, clock)
    everything = [want for group in groups for want in group]
    mine = {want.meter: want.mine for want in everything}
    meters = lock_meters(
        connection, [want.meter for want in everything if want.kind != "places"] or ["clock"]
    )
    held = _held(connection, [want.meter for want in everything if want.kind == "places"], now)
    for name, one in held.items():
        one[process] = mine[name]
    changed: dict[str, tuple[float, str]] = {}
    answers: list[Answer] = []
    for group in groups:
        states = {want.meter: _state(want, now, meters, held) for want in group}
        short = next(
            (Short(want, max(0.0, states[want.meter].left), _wait(want, states[want.meter], now))
             for want in group if want.need > 0 and not want.force and want.need > states[want.meter].left + _ROUNDING), None
        )  # fmt: skip
        if short is not None:
            answers.append(short)
            continue
        drawn: dict[str, Drawn] = {}
        for want in group:
            state = states[want.meter]
            units = min(want.need + want.extra, max(state.left, want.need)) if want.need >= 0 else want.need
            if want.kind == "places":
                held[want.meter][process] = max(0.0, held[want.meter][process] + units)
            else:
                meters[want.meter] = changed[want.meter] = _after(want, state, units, now)
            after = _state(want, now, meters, held)
            drawn[want.meter] = Drawn(units, max(0.0, after.left), after.full)
        answers.append(drawn)
    if any(not isinstance(answer, Short) for answer in answers):
        for name, (at, period) in sorted(changed.items()):
            set_meter(connection, name, at, period)
        _hold(connection, held, process, now)
        note_time(connection, now)
    return answers


def look(connection: Connection, wants: Sequence[Want], *, clock: Clock) -> dict[str, Drawn]:
    """What anybody could draw of each now, without drawing it: `units` is 0."""
    names = [want.meter for want in wants if want.kind != "places"]
    meters = read_meters(connection, ["clock", *names])
    now = clock.follow(meters["clock"][0])
    held = _held(connection, [want.meter for want in wants if want.kind == "places"], now)
    states = {want.meter: _state(want, now, meters, held) for want in wants}
    return {name: Drawn(0.0, max(0.0, state.left), state.full) for name, state in states.items()}


def give_up_places(connection: Connection, process: str) -> None:
    """All that a process holds."""
    connection.execute(delete(places).where(places.c.process == process))


def _state(
    want: Want, now: float, meters: Mapping[str, tuple[float, str]], held: Mapping[str, Mapping[str, float]]
) -> _State:
    if want.kind == "places":
        return _State(want.cap - sum(held[want.meter].values()), 1.0, 0.0, "")
    at, period = meters[want.meter]
    if want.kind == "minute":
        behind = max(0.0, at - now)
        return _State(want.cap - behind * want.cap / 60.0, behind, at, "")
    current = period_of(want.kind, now)
    spent = at if period == current else 0.0
    return _State(want.cap - spent, period_end(want.kind, now) - now, spent, current)


def _after(want: Want, state: _State, units: float, now: float) -> tuple[float, str]:
    if want.kind == "minute":
        start = max(now, state.at) if units > 0 else state.at
        return start + units * 60.0 / want.cap, ""
    return max(0.0, state.at + units), state.period


def _wait(want: Want, state: _State, now: float) -> float:
    if want.kind == "minute":
        return (want.need - state.left) * 60.0 / want.cap
    return 1.0 if want.kind == "places" else period_end(want.kind, now) - now


def period_end(kind: Kind, now: float) -> float:
    begin = _utc(now).replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "day":
        return (begin + datetime.timedelta(days=1)).timestamp()
    return (begin.replace(day=1) + datetime.timedelta(days=32)).replace(day=1).timestamp()


def _utc(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now, datetime.UTC)


def _held(connection: Connection, names: Sequence[str], now: float) -> dict[str, dict[str, float]]:
    """Places by process, of those that have been heard of lately."""
    held: dict[str, dict[str, float]] = {name: {} for name in names}
    if names:
        wanted = select(places).where(places.c.id.in_(sorted(held)), places.c.expires > now)
        for row in connection.execute(wanted):
            held[row.id][row.process] = row.held
    return held


def _hold(connection: Connection, held: Mapping[str, Mapping[str, float]], process: str, now: float) -> None:
    rows = [
        {"id": name, "process": process, "held": round(one[process]), "expires": now + HELD_SECONDS}
        for name, one in sorted(held.items()) if process in one
    ]  # fmt: skip
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(places)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["id", "process"],
                set_={"held": statement.excluded.held, "expires": statement.excluded.expires},
            ),
            rows,
        )
        connection.execute(delete(places).where(places.c.expires < now - HELD_SECONDS))
