"""Several steps in one call: the answers of single steps, to the bit, whatever they ask for and whoever ends when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from hanok.engine.api import Delta, Request, SamplingParams
from hanok.engine.generation import Generation, new_generation
from hanok.engine.generator import LocalEngine
from hanok.engine.learned import LearnedLaws
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.running import Part, Running
from hanok.engine.strides import MOST, SECONDS, Strides
from hanok.errors import HanokError
from hanok.kernels.native import native_available
from hanok.models.decoder import Decoder
from hanok.models.decoding import COLDEST, DecodingHeads

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
POISON = 89  # a token whose vector is no number
WISHES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.3},
    {"temperature": 0.8, "top_k": 9, "logprobs": 3},
    {"temperature": 1.0, "top_p": 0.7, "repetition_penalty": 1.4},
    {"temperature": 0.0, "presence_penalty": 1.5, "frequency_penalty": 0.7, "logprobs": 0},
    {"temperature": 1.0, "min_p": 0.05, "typical_p": 0.9, "logit_bias": {3: 2.0, 5: -100.0}},
    {"temperature": 1.2, "stop_ids": (7, 11, 13)},
    {"temperature": 0.9, "stop_ids": (17, 19), "min_tokens": 20},
]


@pytest.fixture(scope="module", params=["full", "hybrid", "recurrent"])
def decoder(request: pytest.FixtureRequest, small: ModuleType) -> Decoder:
    return small.decoder_of(request.param)


def still() -> float:
    """A clock on which nothing takes time, so that calls are as long as they may be."""
    return 0.0


def counted(scheduler: PagedScheduler) -> list[int]:
    """Steps of each call of `decode`, as they come."""
    model, calls = scheduler._model, list[int]()
    assert isinstance(model, NativeDecoder)
    decode = model.decode

    def noted(*given: Any) -> Any:
        drawn = decode(*given)
        calls.append(len(drawn[0]))
        return drawn

    model.decode = noted  # type: ignore[method-assign]
    return calls


def everyone(small: ModuleType, **changes: Any) -> list[Generation]:
    return [
        small.generation_of(
            n, [(n + 2) * k % 90 for k in range(9 * n + 1)], 40 + 31 * n, seed=n, **wishes | changes
        )
        for n, wishes in enumerate(WISHES)
    ]


def facts(generation: Generation) -> Any:
    one = generation
    return one.ids, one.logprobs, one.tops, one.laws, one.finish_reason, one.ended_by, one.usage


def test_answers_are_those_of_single_steps(small: ModuleType, decoder: Decoder) -> None:
    def answers(scheduler: PagedScheduler, together: bool) -> list[Any]:
        generations = everyone(small)
        for group in [generations] if together else [[one] for one in generations]:
            small.run(scheduler, *group)
        return [facts(one) for one in generations]

    single = small.scheduler_of(decoder, 60)
    single._strides, calls = None, counted(single)
    expected = answers(single, together=True)
    assert not calls
    assert {one[4] for one in expected} == {"length", "stop"}
    for together in (True, False):
        scheduler = small.scheduler_of(decoder, 60, clock=still)
        calls = counted(scheduler)
        assert answers(scheduler, together) == expected
        assert max(calls) == MOST
        assert scheduler.counters.generated_tokens == single.counters.generated_tokens


def with_laws(decoder: Decoder, clock: Callable[[], float]) -> PagedScheduler:
    heads = DecodingHeads(64).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for parameter in heads.parameters():
        parameter.normal_(std=0.08, generator=generator)
    model = NativeDecoder(decoder, kind="int8", blocks=40, threads=2, slots=16)
    return PagedScheduler(
        model, max_running=16, vocabulary=80, laws=LearnedLaws(heads, fast=True), clock=clock
    )


def test_laws_are_those_of_single_steps(small: ModuleType) -> None:
    """Answers by the heads' laws beside others."""

    def generations() -> list[Generation]:
        def one(number: int, **params: Any) -> Generation:
            return new_generation(
                Request(
                    id=str(number), prompt_ids=[5 + number, 6, 7],
                    params=SamplingParams(max_tokens=50, seed=number, **params),
                ), arrival=number, tokenizer=SimpleNamespace(stop_ids=()),  # type: ignore[arg-type]
                context=640, listener=lambda delta: None, failed=lambda error: None, has_heads=True,
            )  # fmt: skip

        return [
            one(0), one(1, temperature=0.7), one(2, logprobs=2), one(3, decoding="fixed"),
            one(4, temperature_scale=1.3), one(5, temperature_scale=0.004),
        ]  # fmt: skip

    decoder, found = small.decoder_of("full"), []
    for strides in (False, True):
        scheduler = with_laws(decoder, still)
        calls, together = counted(scheduler), generations()
        if not strides:
            scheduler._strides = None
        small.run(scheduler, *together)
        assert bool(calls) == strides
        found.append([facts(one) for one in together])
    assert found[0] == found[1]
    assert [len(laws) for _, _, _, laws, *_ in found[0]] == [50, 0, 50, 0, 50, 50]
    assert len(set(found[0][0][3])) > 40
    assert len(set(found[0][4][3])) > 40
    assert {temperature for temperature, _ in found[0][5][3]} == {COLDEST}


class Words:
    """A tokeniser for stop strings: each id is one character."""

    stop_ids = ()

    def stream_decoder(self) -> Any:
        return SimpleNamespace(push=lambda token: chr(token + 0x4E00))


def test_what_was_drawn_behind_a_stop_string_leaves_nothing(small: ModuleType, decoder: Decoder) -> None:
    whole = small.generation_of(1, [1, 2, 3], 200)
    small.run(small.scheduler_of(decoder, 30), whole)
    first_there = [place for place in range(60, 80) if whole.ids[place] not in whole.ids[:place]]
    assert len(first_there) > 2
    for place in first_there[:3]:  # about where a block ends, behind 61
        token = whole.ids[place]
        scheduler = small.scheduler_of(decoder, 30, clock=still)
        calls = counted(scheduler)
        stopped, other = (
            small.generation_of(1, [1, 2, 3], 200, tokenizer=Words(), stop=(chr(token + 0x4E00),)),
            small.generation_of(0, [4, 5], 90),
        )
        small.run(scheduler, stopped, other)
        assert max(calls) > 1
        assert stopped.finish_reason == "stop"
        assert stopped.ids == whole.ids[: place + 1]
        assert other.ids == small.alone(decoder, other)
        longer = small.generation_of(1, [1, 2, 3, *stopped.ids, 8], 50)
        small.run(scheduler, longer)
        assert longer.ids == small.alone(decoder, longer)


def test_stop_ids_end_a_call(small: ModuleType, decoder: Decoder) -> None:
    """Nothing is drawn behind them, and nobody gets a token less."""
    whole = small.generation_of(1, [1, 2, 3], 60)
    small.run(small.scheduler_of(decoder, 30), whole)
    place = next(place for place in range(20, 60) if whole.ids[place] not in whole.ids[:place])
    scheduler = small.scheduler_of(decoder, 30, clock=still)
    stopped, other = (
        small.generation_of(1, [1, 2, 3], 60, stop_ids=(whole.ids[place],)),
        small.generation_of(0, [4, 5], 60),
    )
    small.run(scheduler, stopped, other)
    assert stopped.ids == whole.ids[:place]
    assert stopped.ended_by is not None
    assert stopped.ended_by.token == whole.ids[place]
    assert other.ids == small.alone(decoder, other)
    assert scheduler.counters.generated_tokens == place + 1 + 60


@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_a_row_that_is_no_number_ends_its_request_alone(small: ModuleType, kind: str) -> None:
    model = small.native_of(small.decoder_of(kind, tie_embeddings=False), 30)
    model.embedding.scales[POISON // 16, 0, POISON % 16] = torch.inf
    scheduler = PagedScheduler(model, max_running=4, vocabulary=90, clock=still)
    calls, errors = counted(scheduler), list[Exception]()
    assert scheduler._strides is not None
    scheduler._strides.took(2, 0.0)
    spoilt = small.generation_of(0, [1, 2], 30, logit_bias={POISON: 1000.0})
    spoilt.failed = errors.append
    sound = small.generation_of(1, [3, 4], 30, logit_bias={POISON: -1000.0})
    small.run(scheduler, spoilt, sound)
    assert spoilt.ids == [POISON]
    assert ["not finite" in str(error) for error in errors] == [True]
    assert isinstance(errors[0], HanokError)
    assert calls[0] == 1  # behind it nothing is drawn
    assert len(sound.ids) == 30


def test_cancelled_in_the_middle_of_a_call(small: ModuleType, decoder: Decoder) -> None:
    whole = small.generation_of(1, [1, 2, 3], 100)
    small.run(small.scheduler_of(decoder, 30), whole)
    seen: list[Delta] = []

    def listen(delta: Delta) -> None:
        seen.append(delta)
        if len(seen) == 12:
            cancelled.cancelled = True

    cancelled = small.generation_of(1, [1, 2, 3], 100, listener=listen)
    scheduler = small.scheduler_of(decoder, 30, clock=still)
    small.run(scheduler, cancelled)
    assert cancelled.finish_reason == "cancelled"
    assert 12 <= len(cancelled.ids) < 12 + MOST
    assert cancelled.ids == whole.ids[: len(cancelled.ids)]
    assert [delta.ids for delta in seen] == [*((token,) for token in cancelled.ids), ()]
    assert scheduler._model.pool.free == 30


def part_of(generation: Generation, *, blocks: int) -> Part:
    running = Running(generation, 0, 1, blocks=list(range(blocks)))
    return Part(running, running.length - 1, 1)


def test_how_long_a_call_is(small: ModuleType) -> None:
    model = small.native_of(small.decoder_of("full"), 30)
    strides = Strides(model, vocabulary=90, laws=None)

    def steps(count: int = 1, *, ids: int = 5, tokens: int = 100, **params: Any) -> int:
        generations = [small.generation_of(n, [1, 2, 3], tokens, **params) for n in range(count)]
        for one in generations:
            one.ids = [7] * ids
        return strides.steps([part_of(one, blocks=1) for one in generations])

    assert steps() == 1  # nothing is known of how long they take
    strides.took(1, SECONDS / 20)
    assert steps() == MOST
    assert steps(2) == 1
    assert steps(tokens=8) == 3
    assert steps(min_tokens=6) == 0  # an end may not come yet
    assert steps(min_tokens=5) == MOST
    assert steps(ids=0) == 0
    strides.took(1, SECONDS / 3.5)
    assert steps() == 3
    strides.took(1, SECONDS * 7)
    assert steps() == 1
    strides.took(2, 0.0)
    model.pool.take(29)
    assert steps(2, ids=57) == 5  # to the end of the block: the one that is free is not for this
    assert steps(2, ids=5) == MOST


def test_what_needs_something_between_two_tokens(small: ModuleType) -> None:
    model = small.native_of(small.decoder_of("full"), 30)
    strides = Strides(model, vocabulary=90, laws=None)
    for name in ("matcher", "words", "marker", "echo"):
        generation = small.generation_of(0, [1, 2, 3], 100)
        generation.ids = [7] * 5
        assert strides.steps([part_of(generation, blocks=1)])
        setattr(generation, name, object())
        assert not strides.steps([part_of(generation, blocks=1)]), name
    reading = small.generation_of(0, [1, 2, 3], 100)
    reading.ids = [7] * 5
    running = Running(reading, 0, 1, blocks=[0])
    assert not strides.steps([Part(running, 2, 2), part_of(generation, blocks=1)])
    assert not strides.steps([Part(running, 7, 1, draft=[4])])
    assert not strides.steps([Part(running, 7, 1, saves={8: 1})])
    assert strides.steps([Part(running, 7, 1)])


def test_steps_are_counted_and_streams_are_whole(model_dir: Path) -> None:
    """Of an engine: a listener that wants the last delta alone is told nothing else."""
    engine = LocalEngine(model_dir, weights="int8", speculation="off")
    scheduler = engine._scheduler
    assert isinstance(scheduler, PagedScheduler)
    calls = counted(scheduler)
    request = Request(
        id="one", prompt_ids=[10, 11, 12], params=SamplingParams(max_tokens=60, ignore_eos=True, seed=4)
    )
    (answer,) = engine.generate([request])
    before = engine.metrics()
    assert sum(calls) == 59
    assert before.steps == 60
    told: dict[bool, list[Delta]] = {True: [], False: []}
    for last_only, deltas in told.items():
        over = threading.Event()

        def listen(delta: Delta, deltas: list[Delta] = deltas, over: threading.Event = over) -> None:
            deltas.append(delta)
            if delta.finish_reason:
                over.set()

        engine._submit([engine._new(request, listen, lambda error: None, last_only=last_only)])
        assert over.wait(60)
    engine.close()
    assert [len(deltas) for deltas in told.values()] == [1, 60]
    assert told[True][0].finish_reason == "length"
    assert tuple(token for delta in told[False] for token in delta.ids) == answer.ids
