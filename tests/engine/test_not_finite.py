"""Numbers that are none: they end the requests they belong to with an error, and nobody else's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from hanok.engine.coverage import CacheKind
from hanok.engine.generation import Generation
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.speculation.lookup import Found, PromptLookup
from hanok.engine.speculation.pace import Pace
from hanok.engine.speculation.speculator import Speculator
from hanok.kernels.native import native, native_available
from hanok.kernels.packed import KINDS, Kind

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
PATHS = native().step_paths() if native_available() else []
POISON = 7  # the token whose vector is no number


def poisoned(
    small: ModuleType, pattern: str, kind: Kind, cache: CacheKind = "bf16", path: str = ""
) -> NativeDecoder:
    decoder = small.decoder_of(pattern, tie_embeddings=False)
    model = NativeDecoder(
        decoder, kind=kind, blocks=24, threads=2, slots=4, spares=4, snapshots=2, cache=cache, path=path
    )
    embedding = model.embedding
    if embedding.scales is None:  # [rows / 16, cols / 2, 16, 2]
        embedding.weights.view(torch.bfloat16).view(-1, 32, 16, 2)[POISON // 16, 5, POISON % 16, 1] = (
            torch.nan
        )
    else:
        embedding.scales[POISON // 16, 1, POISON % 16] = torch.inf
    return model


def run(small: ModuleType, model: NativeDecoder, *generations: Generation) -> list[Exception]:
    errors: list[Exception] = []
    for generation in generations:
        generation.failed = errors.append
    small.run(PagedScheduler(model, max_running=4, vocabulary=90), *generations)
    return errors


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["bf16", "int8"])
@pytest.mark.parametrize("pattern", ["full", "hybrid", "recurrent"])
def test_a_request_ends_alone(
    small: ModuleType, pattern: str, kind: Kind, cache: CacheKind, path: str
) -> None:
    """The rounding of inputs to integers hides nothing; others beside it and after it, in its blocks and slots, go on."""
    model = poisoned(small, pattern, kind, cache, path)

    def sound() -> list[Generation]:
        ban = {POISON: -100.0}
        return [small.generation_of(n, [*range(20, 50), n], 20, logit_bias=ban) for n in range(2)]

    alone, beside, after = sound(), sound(), sound()
    assert not run(small, model, *alone)
    model.pool.forget_all()
    sick = small.generation_of(5, [*range(10, 17), POISON, *range(30, 45)], 10)
    errors = run(small, model, beside[0], sick, beside[1])
    assert ["not finite" in str(error) for error in errors] == [True]
    assert sick.ids == []
    assert sick.finish_reason == "error"
    model.pool.forget_all()
    assert not run(small, model, *after)
    assert [g.ids for g in alone] == [g.ids for g in beside] == [g.ids for g in after]
    assert model.pool.free == 24


class Poisoner(PromptLookup):
    def propose(self, running, limit):
        return Found([5, POISON, 6, 7][:limit], 4)


class Always(Pace):
    def lengths(self, offers, rows, **_costs):
        return [offer.limit for offer in offers]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cache", ["bf16", "int8"])
@pytest.mark.parametrize("pattern", ["full", "hybrid", "recurrent"])
def test_a_guess_that_fails_leaves_nothing_behind(
    small: ModuleType, pattern: str, cache: CacheKind, path: str
) -> None:
    """Its keys and values are no numbers, stand beside the sound rows of its step, and lie behind the text until they are
    written over."""
    model = poisoned(small, pattern, "int8", cache, path)
    plain, guessed = (
        small.generation_of(0, list(range(20, 40)), 60, logit_bias={POISON: -100.0}) for _ in range(2)
    )
    assert not run(small, model, plain)
    model.pool.forget_all()
    speculator = Speculator(lookup=Poisoner(), draft=None, pace=Always(recurrent=False))
    errors: list[Exception] = []
    guessed.failed = errors.append
    scheduler = PagedScheduler(model, max_running=4, vocabulary=90, speculator=speculator)
    small.run(scheduler, guessed)
    assert not errors
    assert scheduler.counters.drafted_tokens > 60
    assert guessed.ids == plain.ids
