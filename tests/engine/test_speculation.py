"""Guesses change when tokens come, never which: every answer is that of an engine that does not guess."""

from __future__ import annotations

import random
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from hanok.engine.generation import Generation
from hanok.engine.paged import PagedScheduler
from hanok.engine.running import Running
from hanok.engine.speculation.draft import DraftModel
from hanok.engine.speculation.lookup import Found, PromptLookup
from hanok.engine.speculation.own import OwnHeads
from hanok.engine.speculation.pace import Offer, Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.kernels.native import native_available
from hanok.models.decoder import Decoder

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")


class AlwaysGuess(Pace):
    """As many as there are, at most so many, whatever they cost."""

    def __init__(self, most: int) -> None:
        super().__init__(recurrent=False)
        self.most = most

    def lengths(self, offers, rows, **_costs):
        return [min(offer.limit, self.most) for offer in offers]

    def rest(self, rows, cost):
        return 0


def draft_of(small: ModuleType, decoder: Decoder, slots: int = 16) -> DraftModel:
    native = small.native_of(decoder, 64, slots=slots)
    if not native.spares:
        native.spares = list(range(slots))  # nothing lies in them
    return DraftModel(native, vocabulary=decoder.config.vocab_size)


def heads_of(small: ModuleType, decoder: Decoder, texts: int = 16) -> OwnHeads:
    target = small.native_of(decoder, 1)
    return OwnHeads(decoder, target, vocabulary=decoder.config.vocab_size, texts=texts, threads=2)


def speculator_of(small: ModuleType, source: str, decoder: Decoder, most: int) -> Speculator:
    draft = {
        "lookup": lambda: None,
        "same model": lambda: draft_of(small, decoder),
        "recurrent draft": lambda: draft_of(small, small.decoder_of("recurrent")),
        "both": lambda: draft_of(small, small.decoder_of("full", seed=4)),
        "own heads": lambda: heads_of(small, decoder),
    }[source]()
    lookup = PromptLookup() if source in ("lookup", "both") else None
    return Speculator(lookup=lookup, draft=draft, pace=AlwaysGuess(most))


@pytest.fixture(scope="module", params=["full", "hybrid", "recurrent"])
def decoder(request: pytest.FixtureRequest, small: ModuleType) -> Decoder:
    return small.decoder_of(request.param, mtp_layers=2)


class Letters:
    """A tokeniser whose tokens are letters."""

    stop_ids = (17, 40, 41, 42, 43)

    def stream_decoder(self) -> SimpleNamespace:
        return SimpleNamespace(push=lambda token: chr(48 + token))


def requests(small: ModuleType, seed: int = 0) -> list[Generation]:
    """One of each kind of setting; prompts that repeat themselves, so that there is something to look up."""
    draw = random.Random(seed)
    phrase = [draw.randrange(90) for _ in range(9)]
    settings = [
        {"temperature": 0.0}, {"temperature": 0.0, "repetition_penalty": 1.3}, {"temperature": 0.3},
        {"temperature": 0.9, "top_k": 5}, {"temperature": 0.6, "top_p": 0.8, "min_p": 0.02},
        {"temperature": 0.0, "presence_penalty": 0.4, "frequency_penalty": 0.3}, {"temperature": 0.2, "logprobs": 3},
        {"temperature": 0.0, "stop": (chr(48 + 5), "AB")}, {"temperature": 0.5, "min_tokens": 30},
        {"temperature": 1.0, "logit_bias": {7: 60.0, 8: 60.0}},  # two tokens: half of all guesses hold
    ]  # fmt: skip
    return [
        small.generation_of(
            number, [*phrase * draw.choice([2, 7, 8]), draw.randrange(90), *phrase[:4]], draw.choice([1, 9, 90]),
            tokenizer=Letters(), **params,
        )
        for number, params in enumerate(settings)
    ]  # fmt: skip


def outcome(generation: Generation) -> tuple:
    return generation.ids, generation.finish_reason, generation.logprobs, generation.tops


@pytest.mark.parametrize("source", ["lookup", "same model", "recurrent draft", "both", "own heads"])
@pytest.mark.parametrize("most", [1, 4, 15])
def test_answers_are_those_without_guesses(
    small: ModuleType, decoder: Decoder, source: str, most: int
) -> None:
    plain, guessed = requests(small), requests(small)
    small.run(small.scheduler_of(decoder, 60), *plain)
    speculator = speculator_of(small, source, decoder, most)
    scheduler = small.scheduler_of(decoder, 60, speculator=speculator)
    small.run(scheduler, *guessed)
    assert [outcome(g) for g in guessed] == [outcome(g) for g in plain]
    assert scheduler.counters.drafted_tokens
    assert scheduler.counters.accepted_tokens or "draft" in source
    if (
        source == "same model"
    ):  # it chooses by the same numbers; a stop string may cut the last guesses of one answer off
        assert scheduler.counters.drafted_tokens - scheduler.counters.accepted_tokens < most


@pytest.mark.parametrize(("seed", "blocks"), [(1, 12), (2, 16), (3, 40), (4, 12), (5, 40)])
def test_any_load_any_cache(small: ModuleType, decoder: Decoder, seed: int, blocks: int) -> None:
    draw = random.Random(seed)
    if seed > 3:
        draft = heads_of(small, decoder, texts=3)
    else:
        draft = draft_of(small, decoder if seed == 1 else small.decoder_of("full", seed=2), slots=3)
    speculator = Speculator(lookup=PromptLookup(), draft=draft, pace=AlwaysGuess(6))
    scheduler = small.scheduler_of(decoder, blocks, draw.choice([3, 6]), 4, speculator)
    phrase = [draw.randrange(90) for _ in range(40)]
    everyone: list[Generation] = []
    cancelled = set()
    while len(everyone) < 16 or scheduler.has_work():
        if len(everyone) < 16 and draw.random() < 0.4:
            prompt = [*phrase[: draw.choice([3, 30])] * draw.choice([1, 3, 5]), draw.randrange(90)]
            finished = [g for g in everyone if g.finish_reason and g.usage.prompt_tokens < 200]
            if finished and draw.random() < 0.5:
                before = draw.choice(finished)
                prompt = [*before.request.prompt_ids, *before.ids, 1, 2]
            everyone.append(small.generation_of(len(everyone), prompt, draw.choice([3, 40, 150])))
            scheduler.add(everyone[-1])
        if everyone and draw.random() < 0.02:
            victim = draw.choice(everyone)
            if victim.finish_reason is None:
                victim.cancelled = True
                cancelled.add(victim.arrival)
        scheduler.step()
        scheduler.check()
        draft.check()
    assert scheduler._model.pool.free == blocks
    pools = [draft._model.pool] if isinstance(draft, DraftModel) else [h.model.pool for h in draft._heads]
    assert all(pool.free == pool.size for pool in pools)
    assert not speculator._tracks
    assert scheduler.counters.accepted_tokens
    for generation in everyone:
        if generation.arrival not in cancelled:
            assert generation.ids == small.alone(decoder, generation)


def test_the_next_turn_goes_on_behind_a_guessed_answer(small: ModuleType, decoder: Decoder) -> None:
    scheduler = small.scheduler_of(
        decoder, 40, speculator=speculator_of(small, "same model", decoder, most=7)
    )
    first = small.generation_of(0, [5, 6, 7] * 40, 100)
    small.run(scheduler, first)
    second = small.generation_of(1, [*first.request.prompt_ids, *first.ids, 1, 2, 3], 20)
    small.run(scheduler, second)
    assert second.usage.cached_tokens == 192
    assert second.ids == small.alone(decoder, second)


@pytest.mark.parametrize(
    ("kind", "source"),
    [("full", "lookup"), ("hybrid", "draft"), ("full", "own"), ("hybrid", "own"), ("recurrent", "own")],
)
def test_the_law_of_sampled_tokens(small: ModuleType, kind: str, source: str) -> None:
    """The joint law of the first two tokens behind a prompt, over many seeds, against the model's own probabilities."""
    target = small.decoder_of(kind, vocab_size=8, noise=0.1, mtp_layers=1)
    draft = None
    if source == "draft":
        draft = draft_of(small, small.decoder_of("full", seed=1, vocab_size=8, noise=0.1), slots=64)
    elif source == "own":
        draft = heads_of(small, target, texts=64)
    lookup = PromptLookup() if source == "lookup" else None
    speculator = Speculator(lookup=lookup, draft=draft, pace=AlwaysGuess(3))
    model = small.native_of(target, 400, slots=64)
    scheduler = PagedScheduler(model, max_running=64, vocabulary=8, speculator=speculator)
    prompt, samples, temperature = [1, 2, 3, 1, 2, 3, 1, 2], 5000, 1.3
    answers = [
        small.generation_of(n, prompt, 4, temperature=temperature, seed=10_000 + n) for n in range(samples)
    ]
    for generation in answers:
        scheduler.add(generation)
    while scheduler.has_work():
        scheduler.step()

    def law(text: list[int]) -> list[float]:
        table = model.pool.take(1)
        places = range(len(text))
        logits = model.step(text, places, [0] * len(text), [table], [len(text) - 1])
        model.pool.give_back(table)
        return (logits[0].double() / temperature).softmax(-1).tolist()

    first = law(prompt)
    expected = {(a, b): first[a] * p for a in range(8) for b, p in enumerate(law([*prompt, a]))}
    counts = Counter((g.ids[0], g.ids[1]) for g in answers)
    cells = [cell for cell, p in expected.items() if p * samples > 5]
    rest = [samples - sum(counts[cell] for cell in cells), samples * (1 - sum(expected[c] for c in cells))]
    seen = [counts[cell] for cell in cells] + ([rest[0]] if rest[1] > 5 else [])
    awaited = [samples * expected[cell] for cell in cells] + ([rest[1]] if rest[1] > 5 else [])
    scale = sum(seen) / sum(awaited)
    assert len(cells) > 20
    assert chisquare(seen, [scale * number for number in awaited]).pvalue > 1e-3
    assert scheduler.counters.accepted_tokens


class Oracle(PromptLookup):
    """Knows each answer, and guesses each of its tokens with a given probability."""

    def __init__(self, answers: dict[int, list[int]], rate: float, seed: int = 0) -> None:
        super().__init__()
        self._answers, self._chance, self._draw = answers, rate, random.Random(seed)

    def propose(self, running, limit):
        generation = running.generation
        coming = self._answers[generation.arrival][len(generation.ids) :][:limit]
        return Found([t if self._draw.random() < self._chance else (t + 1) % 90 for t in coming], 4)


def test_tokens_of_a_step(small: ModuleType) -> None:
    """(1 - a^(k+1)) / (1 - a) tokens a step, if each of k guesses holds with probability a."""
    decoder, rate, guesses = small.decoder_of("full"), 0.7, 4
    plain = [small.generation_of(n, [n, 1, 2], 400) for n in range(4)]
    small.run(small.scheduler_of(decoder, 40), *plain)
    oracle = Oracle({g.arrival: g.ids for g in plain}, rate)
    speculator = Speculator(lookup=oracle, draft=None, pace=AlwaysGuess(guesses))
    scheduler = small.scheduler_of(decoder, 40, speculator=speculator)
    again = [small.generation_of(n, [n, 1, 2], 400) for n in range(4)]
    taken: list[int] = []
    verified = speculator.verified
    speculator.verified = lambda running, drafted, accepted: (  # type: ignore[method-assign]
        taken.append(accepted + 1) if drafted == guesses else None,
        verified(running, drafted, accepted),
    )
    small.run(scheduler, *again)
    assert [g.ids for g in again] == [g.ids for g in plain]
    mean = (1 - rate ** (guesses + 1)) / (1 - rate)
    spread = torch.tensor(taken, dtype=torch.float64).std().item() / len(taken) ** 0.5
    assert abs(sum(taken) / len(taken) - mean) < 3 * spread


@pytest.mark.parametrize(
    ("rates", "least"),
    [((0.02, 0.02), 0.97), ((0.2, 0.2), 0.97), ((0.9, 0.9), 2.0), ((0.97, 0.97), 2.5), ((0.02, 0.97), 1.3)],
)
@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_guesses_only_where_they_pay(
    small: ModuleType, kind: str, rates: tuple[float, float], least: float
) -> None:
    """On a clock of its own: a step takes 1 + 0.1 for each further row, a proposal 0.002. The rate changes half-way."""
    decoder = small.decoder_of(kind)
    plain = [small.generation_of(0, [1, 2, 3], 560)]
    small.run(small.scheduler_of(decoder, 40), *plain)
    now = [0.0]

    class Slow(Oracle):
        def propose(self, running, limit):
            now[0] += 0.002
            self._chance = rates[len(running.generation.ids) > 280]
            return super().propose(running, limit)

    oracle = Slow({0: plain[0].ids}, rates[0])
    pace = Pace(recurrent=kind == "hybrid")
    speculator = Speculator(lookup=oracle, draft=None, pace=pace, clock=lambda: now[0])
    model = small.native_of(decoder, 40)
    scheduler = PagedScheduler(
        model, max_running=4, vocabulary=90, speculator=speculator, clock=lambda: now[0]
    )
    step, decode = model.step, model.decode

    def timed(ids, *rest):
        now[0] += 1 + 0.1 * (len(ids) - 1)
        return step(ids, *rest)

    def timed_decode(ids, *rest):
        drawn = decode(ids, *rest)
        now[0] += len(drawn[0]) * (1 + 0.1 * (len(ids) - 1))
        return drawn

    model.step, model.decode = timed, timed_decode  # type: ignore[method-assign]
    again = small.generation_of(0, [1, 2, 3], 560)
    small.run(scheduler, again)
    assert again.ids == plain[0].ids
    assert (560 + 0.2) / now[0] > least


def test_how_many_guesses_pay() -> None:
    pace = Pace(recurrent=False)
    for rows in range(1, 17):
        pace.times.add(rows, 1 + 0.1 * (rows - 1))
    cheap = {"streams": 1, "overhead": 0.0, "deep": 0.0}
    assert pace.lengths([Offer(0.05, 15)], 1, **cheap) == [0]
    assert pace.lengths([Offer(0.95, 15)], 1, **cheap)[0] > 10
    assert pace.lengths([Offer(0.95, 15, deep=True)], 1, streams=1, overhead=0.0, deep=0.4) < [10]
    both = pace.lengths([Offer(0.95, 15), Offer(0.3, 15)], 2, streams=2, overhead=0.0, deep=0.0)
    assert both[0] > both[1]
    assert Pace(recurrent=False).lengths([Offer(0.99, 15)], 1, **cheap) == [0]  # nothing is measured yet
    assert pace.rest(1, 0.005) == 0
    assert pace.rest(1, 0.3) == 29


def test_times_between_and_beyond_what_was_measured() -> None:
    times = Pace(recurrent=False).times
    assert times.of(3) is None
    for seconds in (1.0, 9.0, 1.2):
        times.add(2, seconds)
    times.add(4, 2.0)
    assert times.of(1) == times.of(2) == 1.2
    assert times.of(3) == pytest.approx(1.6)
    assert 2.0 < (times.of(10) or 0) < 3.0


def test_lookup_finds_the_longest_then_latest_match(small: ModuleType) -> None:
    def found(text: list[int], limit: int = 4) -> Found | None:
        running = Running(small.generation_of(0, text, 1), 0, len(text))
        return PromptLookup().propose(running, limit)

    assert found([1, 2, 3, 9, 1, 2, 3, 8, 2, 3]) == ([8, 2, 3, 8], 2)
    assert found([0, 1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3]) == ([9, 7, 2, 3], 3)
    assert found([4, 5, 4, 5]) == ([4, 5, 4, 5], 2)
    assert found([6, 6, 6]) == ([6, 6, 6, 6], 2)
    assert found([1, 2, 3]) is None
    assert found([1]) is None
    assert found([3, 1, 3]) is None  # one token alone says little
