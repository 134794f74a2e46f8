"""Rates, budgets and places: against a reference in a few lines, and against clocks that step."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sqlalchemy import func, select

from hanok.store.allowances import Drawn, Short, Want, draw, period_end, period_of
from hanok.store.database import Store
from hanok.store.meters import Clock, Rate, Take, read_meters, take_rates
from hanok.store.schema import meters


class Time:
    """A wall clock and a monotonic one, set by hand. 2026-11-21 00:00:00 UTC."""

    def __init__(self, wall: float = 1_795_219_200.0) -> None:
        self.wall, self.monotonic = wall, 0.0

    def clock(self) -> Clock:
        return Clock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return tmp_path / "store.sqlite"


def ask(store: Store, clock: Clock, *wants: Want, process: str = "a") -> Drawn | Short:
    with store.write() as connection:
        (answer,) = draw(connection, [wants], clock=clock, process=process)
    return answer if isinstance(answer, Short) else answer[wants[0].meter]


def minute(need: float, *, cap: float = 60.0, extra: float = 0.0) -> Want:
    return Want("key:x:requests_per_minute", "minute", cap, need, extra)


def test_a_rate_is_a_bucket_that_fills(place: Path) -> None:
    """Random takes against the plainest token bucket: the same decisions."""
    rng, time = random.Random(0), Time()
    clock, level, at = time.clock(), 60.0, 0.0
    with Store(place) as store:
        for _ in range(150):
            time.pass_by(rng.choice([0.0, 0.3, 2.0, 20.0]))
            need = rng.choice([1.0, 5.0, 30.0])
            level, at = min(60.0, level + (time.monotonic - at)), time.monotonic  # a unit a second
            answer = ask(store, clock, minute(need))
            assert isinstance(answer, Drawn) == (need <= level + 1e-6)
            if isinstance(answer, Drawn):
                level -= need
                assert answer.left == pytest.approx(level, abs=1e-4)
            else:
                assert answer.wait == pytest.approx(need - level, abs=1e-4)


def test_what_is_refused_may_be_had_when_it_says(place: Path) -> None:
    time = Time()
    clock = time.clock()
    with Store(place) as store:
        ask(store, clock, minute(60.0))
        refused = ask(store, clock, minute(10.0))
        assert isinstance(refused, Short)
        assert refused.wait == pytest.approx(10.0)
        time.pass_by(refused.wait - 0.01)
        assert isinstance(ask(store, clock, minute(10.0)), Short)
        time.pass_by(0.02)
        assert isinstance(ask(store, clock, minute(10.0)), Drawn)


def test_extra_is_drawn_where_there_is_enough(place: Path) -> None:
    time = Time()
    clock = time.clock()
    with Store(place) as store:
        for need, extra, units in [(1.0, 50.0, 51.0), (5.0, 50.0, 9.0)]:
            answer = ask(store, clock, minute(need, extra=extra))
            assert isinstance(answer, Drawn)
            assert answer.units == pytest.approx(units, abs=1e-4)
        assert isinstance(ask(store, clock, minute(1.0)), Short)
        ask(store, clock, minute(-20.0))
        answer = ask(store, clock, minute(20.0))
        assert isinstance(answer, Drawn)


def test_all_or_nothing(place: Path) -> None:
    time = Time()
    clock = time.clock()
    with Store(place) as store:
        day = Want("tenant:t:daily_budget", "day", 1.0, 0.6)
        assert isinstance(ask(store, clock, day, minute(1.0)), Drawn)
        refused = ask(store, clock, day, minute(1.0))
        assert isinstance(refused, Short)
        assert refused.want.kind == "day"
        answer = ask(store, clock, minute(1.0))
        assert isinstance(answer, Drawn)
        assert answer.left == pytest.approx(58.0, abs=1e-4)  # the refused one took no request


def test_what_was_used_is_charged_even_where_nothing_is_left(place: Path) -> None:
    time = Time()
    clock = time.clock()
    with Store(place) as store:
        ask(store, clock, minute(60.0))
        ask(store, clock, Want("key:x:requests_per_minute", "minute", 60.0, 30.0, force=True))
        refused = ask(store, clock, minute(1.0))
        assert isinstance(refused, Short)
        assert refused.wait == pytest.approx(31.0)


def test_budgets_begin_anew_with_the_day_and_the_month(place: Path) -> None:
    time = Time(1_795_219_200.0 + 23 * 3600)
    clock = time.clock()
    with Store(place) as store:
        day, month = Want("d", "day", 10.0, 10.0), Want("m", "month", 15.0, 10.0)
        assert isinstance(ask(store, clock, day), Drawn)
        refused = ask(store, clock, day)
        assert isinstance(refused, Short)
        assert refused.wait == pytest.approx(3600.0)
        assert isinstance(ask(store, clock, month), Drawn)
        time.pass_by(3601)
        assert isinstance(ask(store, clock, day), Drawn)
        assert isinstance(ask(store, clock, month), Short)
        time.pass_by(10 * 86_400)
        assert isinstance(ask(store, clock, month), Drawn)
    assert period_of("day", 1_795_219_200.0) == "2026-11-21"
    assert period_of("month", 1_795_219_200.0) == "2026-11"
    assert period_end("month", 1_795_219_200.0) == 1_796_083_200.0  # 1 December


@pytest.mark.parametrize("step", [-3600.0, 3600.0, -86_400.0])
def test_a_clock_that_steps_neither_fills_nor_freezes(place: Path, step: float) -> None:
    """In a running process: the monotonic clock counts."""
    time = Time()
    clock = time.clock()
    with Store(place) as store:
        ask(store, clock, minute(60.0))
        time.wall += step
        assert isinstance(ask(store, clock, minute(1.0)), Short)
        time.pass_by(1.1)
        assert isinstance(ask(store, clock, minute(1.0)), Drawn)


def test_a_restart_with_the_clock_set_back_gives_nothing_for_free(place: Path) -> None:
    time = Time()
    with Store(place) as store:
        assert isinstance(ask(store, time.clock(), minute(60.0)), Drawn)
        ask(store, time.clock(), Want("d", "day", 1.0, 1.0))
    time.wall -= 30 * 3600  # a new process, whose clock begins from the wall's
    with Store(place) as store:
        clock = time.clock()
        assert isinstance(ask(store, clock, minute(1.0)), Short)
        assert isinstance(ask(store, clock, Want("d", "day", 1.0, 1.0)), Short)
        time.pass_by(1.1)  # and time goes on from where it was
        assert isinstance(ask(store, clock, minute(1.0)), Drawn)
        assert isinstance(ask(store, clock, minute(1.0)), Short)


def test_places_of_a_process_that_died_are_free_after_a_while(place: Path) -> None:
    time = Time()
    with Store(place) as store:
        for process, got in (("a", Drawn), ("b", Short)):
            answer = ask(store, time.clock(), Want("p", "places", 2, 2.0), process=process)
            assert isinstance(answer, got)
        time.pass_by(6.0)
        ask(store, time.clock(), Want("p", "places", 2, 0.0, mine=2.0), process="a")  # it lives
        time.pass_by(6.0)
        assert isinstance(ask(store, time.clock(), Want("p", "places", 2, 1.0), process="b"), Short)
        time.pass_by(6.0)  # and now it does not
        assert isinstance(ask(store, time.clock(), Want("p", "places", 2, 2.0), process="b"), Drawn)


def test_takes_of_several_meters_are_all_or_nothing(place: Path) -> None:
    time = Time()
    clock, rate = time.clock(), Rate(per_minute=60, burst=5)
    with Store(place) as store:
        assert take_rates(store, [Take("a", rate, 5), Take("b", rate, 1)], clock=clock) is None
        wait = take_rates(store, [Take("a", rate, 1), Take("b", rate, 1)], clock=clock)
        assert wait == pytest.approx(1.0)
        assert take_rates(store, [Take("b", rate, 4)], clock=clock) is None
        assert take_rates(store, [Take("b", rate, 1)], clock=clock) is not None
        assert take_rates(store, [Take("b", rate, -2)], clock=clock) is None
        assert take_rates(store, [Take("b", rate, 2)], clock=clock) is None


def test_rows_that_say_nothing_any_more_are_deleted(place: Path) -> None:
    """Sign-ins of a thousand names that nobody has; a rate that is still in debt, and a budget of this month, stay."""
    time = Time()
    clock, rate = time.clock(), Rate(per_minute=2, burst=5)

    def rows(store: Store) -> int:
        with store.read() as connection:
            return connection.execute(select(func.count()).select_from(meters)).scalar_one()

    with Store(place) as store:
        month = Want("key:x:monthly_budget", "month", 10.0, 4.0)
        ask(store, clock, month)
        ask(store, clock, Want("key:x:daily_budget", "day", 10.0, 4.0))
        ask(store, clock, Want("slow", "minute", 1.0, 120.0, force=True))  # two hours of a unit a minute
        for number in range(1000):
            take_rates(store, [Take(f"login:{number}", rate, 1.0)], clock=clock)
        assert rows(store) == 1004
        time.pass_by(86_400 - 60)  # to the last minute of the day
        take_rates(store, [Take("login:last", rate, 1.0)], clock=clock)
        assert rows(store) == 4  # the clock, the budgets, the last
        time.pass_by(3600)
        take_rates(store, [Take("login:next day", rate, 1.0)], clock=clock)
        assert rows(store) == 3
        answer = ask(store, clock, Want("key:x:monthly_budget", "month", 10.0, 7.0))
        assert isinstance(answer, Short)
        assert answer.left == 6.0


def test_a_rate_in_debt_is_not_forgiven(place: Path) -> None:
    time = Time()
    clock, rate = time.clock(), Rate(per_minute=2, burst=5)
    with Store(place) as store:
        ask(store, clock, Want("slow", "minute", 1.0, 120.0, force=True))
        time.pass_by(3600)
        take_rates(store, [Take("login:x", rate, 1.0)], clock=clock)
        with store.read() as connection:
            assert read_meters(connection, ["slow"])["slow"][0] > clock.now() + 3590
