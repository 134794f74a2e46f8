"""The learning rate over a run, and the settings' own rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from hanok.errors import ConfigError
from hanok.training.config import TrainConfig
from hanok.training.schedule import Schedule


def test_warm_up_stable_decay() -> None:
    schedule = Schedule(warmup_steps=4, final_lr=0.0).of_length(20, decay_fraction=0.5)
    factors = [schedule.factor(step) for step in range(20)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[4:10] == [1.0] * 6
    assert factors[10:] == pytest.approx([left / 11 for left in range(10, 0, -1)])
    assert not schedule.finished(19)
    assert schedule.finished(20)


def test_decay_ends_at_the_final_rate() -> None:
    schedule = Schedule(warmup_steps=0, final_lr=0.1).of_length(1000, decay_fraction=1.0)
    assert schedule.factor(0) == pytest.approx(1.0, abs=0.01)
    assert schedule.factor(999) == pytest.approx(0.1, abs=0.01)


def test_without_decay_it_stays() -> None:
    schedule = Schedule(warmup_steps=0, final_lr=0.0).of_length(10, decay_fraction=0.0)
    assert [schedule.factor(step) for step in range(10)] == [1.0] * 10


def test_an_unknown_length_is_stable() -> None:
    open_ended = Schedule(warmup_steps=1, final_lr=0.0)
    assert [open_ended.factor(step) for step in (0, 1, 500)] == [0.5, 1.0, 1.0]
    assert not open_ended.finished(10**9)


@pytest.mark.parametrize("rates", [[100], [100, 60, 80, 50], [100, 400, 10, 10, 10, 10], [5, 5]])
def test_a_length_from_the_clock_is_corrected_until_the_decay(rates: list[int]) -> None:
    """`rates`: the length that each measurement suggests."""
    schedule = Schedule(warmup_steps=0, final_lr=0.0)
    suggested = iter([*rates, *[rates[-1]] * 50])
    schedule = schedule.from_clock(4, next(suggested), decay_fraction=0.4)
    factors, checks = [], 1
    step = 4
    while not schedule.finished(step):
        if step == schedule.next_check:
            schedule = schedule.from_clock(step, next(suggested), decay_fraction=0.4)
            checks += 1
        factors.append(schedule.factor(step))
        step += 1
    assert checks < 12
    assert schedule.first_length == rates[0]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] < 0.6
    assert schedule.next_check is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "max_steps = 0"),
        ({"tokens_per_step": 100, "max_seq_len": 200}, "each must fit"),
        ({"mixture": {}}, "mixture is empty"),
        ({"mixture": {"text-train": -1.0}}, "mixture.text-train = -1.0"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"spike_ratio": 0.5}, "spike_ratio"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"grad_clip": -1.0}, "grad_clip"),
    ],
)
def test_settings_say_which_rule_they_break(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**values)  # type: ignore[arg-type]


def test_a_clock_that_runs_slower_or_faster_in_the_decay_moves_the_end_not_the_rate() -> None:
    """A machine that was busy at first leaves time over: the decay is stretched from where it stands."""
    plan = Schedule(warmup_steps=0, final_lr=0.0).from_clock(100, 200, decay_fraction=0.5)
    assert plan.decay_start == 100
    assert plan.next_check == 150
    before = plan.factor(150)
    for total in (175, 200, 400):
        moved = plan.from_clock(150, total, decay_fraction=0.5)
        assert moved.total_steps == total
        assert abs(moved.factor(150) - before) < 0.02
        factors = [moved.factor(step) for step in range(150, total)]
        assert all(a > b for a, b in pairwise(factors))
        assert factors[-1] < 0.05


def run_by_the_clock(*, late: bool) -> tuple[float, list[float]]:
    """300 seconds with steps of one second, of six once the decay has begun: (when it ends, factors of the decay).

    late: whether the time that has gone counts, too.
    """
    budget, seconds, step = 300.0, 10.0, 10
    schedule, factors = Schedule(warmup_steps=0, final_lr=0.0).from_clock(10, 300, decay_fraction=0.5), []
    while not schedule.finished(step):
        if schedule.due(step, seconds if late else 0.0, budget=budget):
            rate = (seconds - schedule.checked_seconds) / (step - schedule.checked_step)
            planned = schedule.from_clock(
                step, step + max(1, int((budget - seconds) / rate)), decay_fraction=0.5
            )
            schedule = replace(planned, checked_step=step, checked_seconds=seconds)
        factors.append(schedule.factor(step))
        seconds += 1.0 if step < 160 else 6.0
        step += 1
    return seconds, factors[150:]


def test_a_rate_that_falls_in_the_decay_is_met_in_time() -> None:
    end, factors = run_by_the_clock(late=True)
    assert end < 345
    assert factors[-1] < 0.15
    assert max(a - b for a, b in pairwise(factors)) < 0.15
    too_late, abrupt = run_by_the_clock(late=False)
    assert too_late > 500, "the check by steps alone comes when the time is long up"
    assert abrupt[-1] > 0.3


def test_what_is_due_is_due_once() -> None:
    plan = replace(
        Schedule(warmup_steps=0, final_lr=0.0).from_clock(100, 200, decay_fraction=0.5), checked_step=100
    )
    assert not plan.due(100, 1e9, budget=60.0)
    assert plan.due(150, 0.0, budget=60.0)
    assert not plan.due(120, 30.0, budget=60.0)
    assert plan.due(120, 40.0, budget=60.0)
    assert (
        not Schedule(warmup_steps=0, final_lr=0.0).of_length(50, decay_fraction=0.5).due(20, 1e9, budget=60.0)
    )
