"""The score of extraction: copiers of several kinds climb, honest callers of several kinds do not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hanok.guard.extraction import (
    ALLOWANCE,
    HALF_LIFE,
    Climb,
    Signs,
    Sketch,
    at_least,
    climb_of,
    next_score,
    simhash,
    step_of,
)
from hanok.guard.protection import ExtractionPolicy

SYSTEM = list(range(900, 940))
Asked = tuple[list[int], dict[str, Any]]


def words(draw: random.Random, count: int) -> list[int]:
    return [int(800 * draw.random() ** 2) for _ in range(count)]


def asked(prompt: list[int], *, logprobs: bool = False, samples: bool = False, greedy: bool = False) -> Asked:
    return [*SYSTEM, *prompt], {"logprobs": logprobs, "samples": samples, "greedy": greedy}


def conversations(draw: random.Random) -> Iterator[Asked]:
    """A heavy honest user: conversations of some turns at the default temperature, some questions asked again."""
    old = words(draw, 20)
    while True:
        prompt = old if draw.random() < 0.1 else words(draw, draw.randrange(8, 60))
        for _ in range(draw.randrange(1, 8)):
            yield asked(prompt, greedy=draw.random() < 0.1)
            prompt = [*prompt, *words(draw, draw.randrange(30, 200))]
        old = prompt[:40]


def programme(draw: random.Random) -> Iterator[Asked]:
    """An honest programme: documents summed up at temperature 0, each asked about some times."""
    while True:
        document = words(draw, 300)
        for question in range(draw.randrange(2, 6)):
            yield asked([*document, 7, question], greedy=True)


def batch(draw: random.Random) -> Iterator[Asked]:
    """Another: thousands of letters sorted, one frame around each."""
    frame = words(draw, 20)
    while True:
        yield asked([*frame, *words(draw, draw.randrange(20, 80)), 5, 6], greedy=True)


def distribution(draw: random.Random) -> Iterator[Asked]:
    """A copier who wants the law of each token: every prompt new, with log-probabilities."""
    while True:
        yield asked(words(draw, 30), logprobs=True, greedy=draw.random() < 0.5)


def template(draw: random.Random) -> Iterator[Asked]:
    """A copier who fills a template in."""
    frame = words(draw, 60)
    while True:
        yield asked([*frame[:30], *words(draw, 3), *frame[30:]], greedy=True, samples=draw.random() < 0.3)


def samples(draw: random.Random) -> Iterator[Asked]:
    """A copier who distils: many samples of each of many prompts."""
    while True:
        yield asked(words(draw, 25), samples=True, logprobs=draw.random() < 0.3)


def score_of(kind: Callable[[random.Random], Iterator[Asked]], requests: int, seed: int) -> float:
    sketch, score = Sketch(), 0.0
    for (prompt, wishes), _ in zip(kind(random.Random(seed)), range(requests), strict=False):
        score = next_score(score, sketch.look(prompt, **wishes), seconds=2.0)
    return score


@pytest.mark.parametrize("kind", [distribution, template, samples])
def test_copiers_are_found_within_a_thousand_requests(kind: Callable[..., Iterator[Asked]]) -> None:
    assert min(score_of(kind, 1000, seed) for seed in range(3)) > ExtractionPolicy().log


@pytest.mark.parametrize("kind", [conversations, programme, batch])
def test_heavy_honest_callers_stay_off_the_ladder(kind: Callable[..., Iterator[Asked]]) -> None:
    assert max(score_of(kind, 3000, seed) for seed in range(3)) < ExtractionPolicy().log / 4


def test_a_conversation_that_goes_on_is_not_new() -> None:
    sketch = Sketch()
    ask: dict[str, Any] = {"logprobs": False, "samples": False, "greedy": False}
    first = list(range(50))
    assert sketch.look(first, **ask).fresh
    assert not sketch.look(first, **ask).fresh
    assert not sketch.look([*first, 7, 8, 9], **ask).fresh
    assert sketch.look([*first[:-1], 7, 8, 9], **ask).fresh  # another turn in the place of one


def test_near_texts_have_near_hashes() -> None:
    rng = np.random.default_rng(1)
    text = rng.integers(0, 5000, 200).astype(np.uint32)
    near = text.copy()
    near[50:54] = 1
    other = rng.integers(0, 5000, 200).astype(np.uint32)
    assert (simhash(text) ^ simhash(near)).bit_count() <= 14
    assert (simhash(text) ^ simhash(other)).bit_count() > 16
    assert simhash(np.zeros(0, dtype=np.uint32)) == simhash(np.zeros(1, dtype=np.uint32))


def test_a_sketch_comes_back_from_the_store() -> None:
    draw = random.Random(3)
    sketch = Sketch()
    for prompt, wishes in (next(conversations(draw)) for _ in range(400)):
        sketch.look(prompt, **wishes)
    again = Sketch.unpacked(sketch.packed())
    again.last = sketch.last
    for prompt, wishes in (next(template(draw)) for _ in range(50)):
        assert again.look(prompt, **wishes) == sketch.look(prompt, **wishes)
    assert len(sketch.packed()) < 64_000


def test_the_score_never_falls_below_nothing_and_halves_in_a_week() -> None:
    honest = Signs(fresh=False, new_cell=False, alike=False, logprobs=False, samples=False, greedy=False)
    copier = Signs(fresh=True, new_cell=True, alike=True, logprobs=True, samples=True, greedy=True)
    assert honest.suspicion < ALLOWANCE < copier.suspicion
    assert next_score(0.0, honest, seconds=0) == 0.0
    assert next_score(100.0, copier, seconds=0) == pytest.approx(100 + copier.suspicion - ALLOWANCE)
    assert next_score(100.0, copier, seconds=HALF_LIFE) == pytest.approx(50 + copier.suspicion - ALLOWANCE)


def test_two_servers_that_add_what_they_saw_come_to_what_one_would() -> None:
    draw = random.Random(4)
    signs = [
        Signs(**{name: draw.random() < 0.4 for name in ("fresh", "new_cell", "alike", "logprobs", "samples", "greedy")})
        for _ in range(400)
    ]  # fmt: skip
    times = [3600.0 * number for number in range(400)]
    score = 0.0
    for one, seconds in zip(signs, [0.0] + [3600.0] * 399, strict=True):
        score = next_score(score, one, seconds=seconds)
    whole, halves = Climb(), [Climb(), Climb()]
    kept = known = (0.0, 0.0)
    for place, (one, at) in enumerate(zip(signs, times, strict=True)):
        whole = whole.then(climb_of(one, at))
        kept = climb_of(one, at).over(*kept)
        halves[place % 2] = halves[place % 2].then(climb_of(one, at))
        if place % 10 == 9:  # both put what they saw together with what there is, one after the other
            for mine in halves:
                known = mine.over(*known)
            halves = [Climb(), Climb()]
    assert kept[0] == pytest.approx(score, rel=1e-9)
    assert whole.over(0.0, 0.0)[0] == pytest.approx(
        score, rel=1e-9
    )  # all at once, wherever it was cut off at 0
    assert known[0] == pytest.approx(score, abs=2.0)  # only their order within ten is another
    assert known[0] > 0
    assert Climb().over(5.0, 3.0) == (5.0, 3.0)


@pytest.mark.parametrize("start", [0.0, 0.3, 40.0])
def test_a_climb_is_the_same_from_any_score(start: float) -> None:
    draw = random.Random(5)
    climb, score, at = Climb(), start, 0.0
    for _ in range(60):
        one = Signs(*(draw.random() < 0.35 for _ in range(6)))
        seconds = draw.random() * HALF_LIFE / 10
        score, at = next_score(score, one, seconds=seconds), at + seconds
        climb = climb.then(climb_of(one, at))
    assert climb.over(start, 0.0) == (pytest.approx(score), at)


def test_what_two_sketches_saw_is_put_together() -> None:
    draw = random.Random(6)
    one, other, news = Sketch(), Sketch(), Sketch()
    ask: dict[str, Any] = {"logprobs": False, "samples": False, "greedy": False}
    mine, theirs = ([words(draw, 40) for _ in range(30)] for _ in range(2))
    for prompt in mine:
        one.look(prompt, **ask)
    for prompt in theirs:
        other.look(prompt, **ask, news=news)
    assert one.look(theirs[3], **ask).fresh  # the control
    together = Sketch.unpacked(one.packed())
    together.take_in(news)
    for prompt in (*mine, *theirs):
        assert not together.look(prompt, **ask).fresh
        assert not together.look([*prompt, 1, 2], **ask).fresh  # goes on from it
    assert int(np.unpackbits(together.cells).sum()) >= int(np.unpackbits(one.cells | other.cells).sum())
    assert Sketch.unpacked("").look(mine[0], **ask).fresh


def test_steps_in_their_order() -> None:
    policy = ExtractionPolicy(log=10, quota=20, no_logprobs=30)  # no review
    assert [step_of(score, policy) for score in (0, 9.9, 10, 25, 30, 1e9)] == [
        "", "", "log", "quota", "no_logprobs", "no_logprobs",
    ]  # fmt: skip
    assert at_least("no_logprobs", "quota")
    assert not at_least("log", "quota")
