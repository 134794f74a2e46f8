"""Hours of company: requests that come at random, are cancelled, pushed out, guessed at and spoilt, in caches far too small.

Every answer must be that of an engine that has nothing else to do; nothing may be lost, and memory must not grow. How long:
`HANOK_SOAK_SECONDS` for the slow test (600 unless set; `make soak` takes two hours), a few seconds in the normal suite.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hanok.engine.coverage import CacheKind
from hanok.engine.generation import Generation
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.speculation.draft import DraftModel
from hanok.engine.speculation.lookup import PromptLookup
from hanok.engine.speculation.own import OwnHeads
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.kernels.memory import release_memory
from hanok.kernels.native import native_available
from hanok.models.decoder import Decoder

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
SECONDS = float(os.environ.get("HANOK_SOAK_SECONDS", "600"))
POISON = 89  # a token whose vector is no number
STEPS = 300  # of an episode, in which requests come
GROWTH = 48 << 20  # of resident memory, once everything has been in use


class Moods(Pace):
    """Any number of guesses, at any time."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(recurrent=False)
        self._draw = draw

    def lengths(self, offers, rows, **_costs):
        return [self._draw.randint(0, min(offer.limit, 6)) for offer in offers]

    def rest(self, rows, cost):
        return self._draw.choice([0, 0, 0, 7])


@dataclass
class Count:
    """What came to pass."""

    episodes: int = 0
    requests: int = 0
    cancelled: int = 0
    spoilt: int = 0
    tokens: int = 0
    preemptions: int = 0
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    resident: list[int] = field(default_factory=list)

    def add(self, scheduler: PagedScheduler) -> None:
        counters = scheduler.counters
        self.episodes += 1
        self.tokens += counters.generated_tokens
        self.preemptions += counters.preemptions
        self.cached += counters.cached_tokens
        self.drafted += counters.drafted_tokens
        self.accepted += counters.accepted_tokens


def resident() -> int:
    release_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def native_of(decoder: Decoder, blocks: int, **changes: Any) -> NativeDecoder:
    settings = {"kind": "int8", "threads": 2, "slots": 8, "spares": 4, "snapshots": 3} | changes
    model = NativeDecoder(decoder, blocks=blocks, **settings)
    assert model.embedding.scales is not None
    model.embedding.scales[POISON // 16, 0, POISON % 16] = torch.inf
    return model


def speculator_of(
    small: ModuleType, decoder: Decoder, model: NativeDecoder, draw: random.Random
) -> Speculator | None:
    source = draw.choice(["none", "lookup", "draft", "heads", "both"])
    if source == "none":
        return None
    draft = None
    if source == "draft":
        other = NativeDecoder(
            small.decoder_of("full"), kind="int8", blocks=draw.choice([6, 40]), threads=2, slots=3, spares=3
        )
        draft = DraftModel(other, vocabulary=90)
    elif source in ("heads", "both"):
        draft = OwnHeads(decoder, model, vocabulary=90, texts=3, threads=2)
    lookup = PromptLookup() if source in ("lookup", "both") else None
    return Speculator(lookup=lookup, draft=draft, pace=Moods(draw))


class Episode:
    """One engine, from its first request until it is empty."""

    def __init__(
        self, small: ModuleType, decoder: Decoder, references: Mapping[CacheKind, PagedScheduler], *,
        seed: int, steps: int,
    ) -> None:  # fmt: skip
        self._draw = draw = random.Random(seed)
        self._small, self._steps, self._blocks = small, steps, draw.choice([11, 14, 25, 60])
        cache: CacheKind = draw.choice(["bf16", "int8"])
        model = native_of(decoder, self._blocks, snapshots=draw.choice([0, 1, 6]), cache=cache)
        self._reference = references[cache]
        self._speculator = speculator_of(small, decoder, model, draw)
        self.scheduler = PagedScheduler(
            model, max_running=draw.choice([1, 3, 8]), vocabulary=90, speculator=self._speculator,
            clock=small.irregular_clock(seed),
        )  # fmt: skip
        self._phrases = [[draw.randrange(80) for _ in range(200)] for _ in range(2)]
        self._open: dict[Generation, dict[str, Any]] = {}
        self._past: list[Generation] = []
        self._number = 0

    def run(self, count: Count) -> None:
        draw, scheduler = self._draw, self.scheduler
        eager = draw.choice([0.05, 0.3])
        for step in range(100_000):
            if step < self._steps and draw.random() < eager:
                self._arrive()
                count.requests += 1
            if self._open and draw.random() < 0.02:
                draw.choice(list(self._open)).cancelled = True
            if step >= self._steps and not scheduler.has_work():
                break
            scheduler.step()
            scheduler.check()
            self._collect(count)
        assert not self._open
        self._check_empty()
        count.add(scheduler)

    def _arrive(self) -> None:
        draw, number = self._draw, self._number
        self._number += 1
        prompt = [draw.randrange(80) for _ in range(draw.choice([1, 5, 63, 64, 65, 150]))]
        tenant = draw.choice("ab")
        if self._past and draw.random() < 0.3:
            before = draw.choice(self._past)
            prompt, tenant = [*before.request.prompt_ids, *before.ids, *prompt[:20]], before.request.tenant
        elif draw.random() < 0.6:
            prompt = [*draw.choice(self._phrases)[: draw.choice([64, 130, 200])], *prompt]
        if draw.random() < 0.05:
            prompt[draw.randrange(len(prompt))] = POISON
        settings = {
            "temperature": draw.choice([0.0, 0.3, 1.0]), "seed": draw.randrange(1 << 30), "top_k": draw.choice([0, 5]),
            "repetition_penalty": draw.choice([1.0, 1.0, 1.2]),
            "logit_bias": {POISON: -100.0} | draw.choice([{}, {7: 60.0, 8: 60.0}]),
        }  # fmt: skip
        tokens = draw.choice([1, 3, 40, 120])
        generation = self._small.generation_of(
            number, prompt, tokens, tenant=tenant, priority=draw.choice([0, 0, 1]), **settings
        )
        self._open[generation] = settings | {"tokens": tokens}
        self.scheduler.add(generation)

    def _collect(self, count: Count) -> None:
        for generation in [g for g in self._open if g.finish_reason is not None]:
            settings = self._open.pop(generation)
            reason = generation.finish_reason
            if POISON in generation.request.prompt_ids:
                assert reason in ("error", "cancelled")
                assert not generation.ids
                count.spoilt += reason == "error"
            elif reason == "cancelled":
                assert generation.cancelled
                count.cancelled += 1
            else:
                assert reason == "length"
                assert generation.ids == self._alone(generation, dict(settings))
                if len(generation.request.prompt_ids) < 200:
                    self._past = [*self._past[-5:], generation]

    def _alone(self, generation: Generation, settings: dict[str, Any]) -> list[int]:
        """Its answer from an engine that has nothing else and no past."""
        again = self._small.generation_of(
            generation.arrival, list(generation.request.prompt_ids), settings.pop("tokens"), **settings
        )
        self._reference.forget_past()
        self._reference.add(again)
        while self._reference.has_work():
            self._reference.step()
        return again.ids

    def _check_empty(self) -> None:
        assert self.scheduler._pool.free == self._blocks
        speculator = self._speculator
        if speculator is None:
            return
        assert not speculator._tracks
        if speculator._lookup is not None:
            assert not speculator._lookup._texts
        if isinstance(speculator._draft, OwnHeads):
            speculator._draft.check()
            assert not speculator._draft._places
            assert all(head.model.pool.free == head.model.pool.size for head in speculator._draft._heads)
        elif speculator._draft is not None:
            speculator._draft.check()
            assert not speculator._draft._readers


def soak(small: ModuleType, kind: str, seconds: float, *, seed: int, steps: int) -> Count:
    decoder = small.decoder_of(kind, mtp_layers=1, tie_embeddings=False)
    draw, count = random.Random(seed), Count()
    references: dict[CacheKind, PagedScheduler] = {
        cache: PagedScheduler(native_of(decoder, 12, snapshots=0, cache=cache), max_running=1, vocabulary=90)
        for cache in ("bf16", "int8")
    }
    began = time.monotonic()
    while not count.episodes or time.monotonic() - began < seconds:
        number = draw.randrange(1 << 30)
        try:
            Episode(small, decoder, references, seed=number, steps=steps).run(count)
        except BaseException:
            print(f"\n{kind}: episode {count.episodes} with seed {number} after {count}")
            raise
        count.resident.append(resident())
    print(f"\n{kind}, {time.monotonic() - began:.0f} s: {_summary(count)}")
    return count


def _summary(count: Count) -> str:
    facts = {name: value for name, value in vars(count).items() if name != "resident"}
    tenth = [count.resident[len(count.resident) * n // 10] >> 20 for n in range(10)]
    words = ", ".join(f"{value:,} {name}" for name, value in facts.items())
    return f"{words}; MiB resident at each tenth: {tenth}, at the end {count.resident[-1] >> 20}"


@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_some_seconds_of_company(small: ModuleType, kind: str) -> None:
    count = soak(small, kind, 0.0, seed=1, steps=150)
    assert count.requests > 20


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_a_long_time_in_company(small: ModuleType, kind: str) -> None:
    count = soak(small, kind, SECONDS / 2, seed=int(time.time()), steps=STEPS)
    assert count.cancelled
    assert count.spoilt
    assert count.preemptions
    assert count.cached
    assert 0 < count.accepted < count.drafted
    quarter = len(count.resident) // 4
    assert max(count.resident[-quarter:]) < max(count.resident[: quarter + 1]) + GROWTH
