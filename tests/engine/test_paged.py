"""Scheduling within the cache's blocks: whatever comes, goes and is pushed out, answers are those of an empty engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from hanok.engine.api import Delta, Request, SamplingParams
from hanok.engine.blocks import BLOCK, BlockPool, block_names
from hanok.engine.generation import Generation, new_generation
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.errors import CapacityError
from hanok.kernels.native import native_available
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
SHAPE = {
    "vocab_size": 90, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "head_dim": 16, "intermediate_size": 96,
    "max_context": 640,
}  # fmt: skip
PATTERNS = {
    "full": {"pattern": ("gqa",), "num_kv_heads": 2},
    "hybrid": {"pattern": ("kda", "mla"), "kv_lora_rank": 16, "v_head_dim": 16},
}


@pytest.fixture(scope="module", params=PATTERNS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    config = ModelConfig(**SHAPE | PATTERNS[request.param])
    model = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return model


def scheduler_of(decoder: Decoder, blocks: int, max_running: int = 16) -> PagedScheduler:
    model = NativeDecoder(decoder, kind="int8", blocks=blocks, threads=2)
    return PagedScheduler(model, max_running=max_running, vocabulary=90)


def generation_of(number: int, prompt: list[int], tokens: int, *, tenant: str = "", priority: int = 0,
                  listener: Callable[[Delta], None] = lambda delta: None) -> Generation:  # fmt: skip
    params = SamplingParams(max_tokens=tokens, temperature=0.7 if number % 2 else 0.0, seed=number)
    request = Request(id=str(number), prompt_ids=prompt, params=params, tenant=tenant, priority=priority)
    return new_generation(
        request, arrival=number, tokenizer=SimpleNamespace(stop_ids=()), context=640, listener=listener,
        failed=lambda error: None,
    )  # fmt: skip


def alone(decoder: Decoder, generation: Generation) -> list[int]:
    scheduler = scheduler_of(decoder, blocks=12)
    again = generation_of(
        generation.arrival, list(generation.request.prompt_ids), generation.request.params.max_tokens or 1
    )
    scheduler.add(again)
    while scheduler.has_work():
        scheduler.step()
    return again.ids


@pytest.mark.parametrize(("seed", "blocks"), [(1, 11), (2, 14), (3, 40)])
def test_any_load_any_cache(decoder: Decoder, seed: int, blocks: int) -> None:
    draw = random.Random(seed)
    scheduler = scheduler_of(decoder, blocks, max_running=draw.choice([2, 5, 9]))
    openings = [[draw.randrange(90) for _ in range(200)] for _ in range(2)]
    waiting = []
    for number in range(24):
        prompt = [draw.randrange(90) for _ in range(draw.choice([1, 5, 63, 64, 65, 300]))]
        if draw.random() < 0.5:
            prompt = [*draw.choice(openings)[: draw.choice([64, 130, 200])], *prompt]
        waiting.append(
            generation_of(
                number,
                prompt,
                draw.choice([1, 3, 70]),
                priority=draw.choice([0, 0, 1]),
                tenant=draw.choice("ab"),
            )
        )
    everyone, cancelled = list(waiting), set()
    while waiting or scheduler.has_work():
        for _ in range(draw.choice([0, 0, 1, 4])):
            if waiting:
                scheduler.add(waiting.pop(0))
        if draw.random() < 0.03:
            victim = draw.choice(everyone)
            if victim.finish_reason is None:
                victim.cancelled = True
                cancelled.add(victim.arrival)
        scheduler.step()
        scheduler.check()
    assert scheduler._model.pool.free == blocks
    for generation in everyone:
        if generation.arrival in cancelled:
            assert generation.finish_reason in ("cancelled", "length")
        else:
            assert generation.ids == alone(decoder, generation)
    assert any(generation.cached for generation in everyone) == ("kda" not in decoder.config.layers)


def test_a_second_turn_reads_only_what_is_new(decoder: Decoder) -> None:
    scheduler = scheduler_of(decoder, blocks=20)
    first = generation_of(0, [n % 90 for n in range(330)], 20)
    scheduler.add(first)
    while scheduler.has_work():
        scheduler.step()
    second = generation_of(2, [*first.request.prompt_ids, *first.ids, 5, 6, 7], 5)
    other = generation_of(4, list(second.request.prompt_ids), 5, tenant="another")
    for generation in (second, other):
        scheduler.add(generation)
        while scheduler.has_work():
            scheduler.step()
    kept = 0 if "kda" in decoder.config.layers else (330 + 20 - 1) // BLOCK * BLOCK
    assert second.usage.cached_tokens == kept
    assert other.usage.cached_tokens == 0
    assert second.ids == other.ids == alone(decoder, second)


def test_logits_that_are_no_numbers_end_their_request_alone(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(decoder, blocks=12)
    step = scheduler._model.step

    def spoilt(ids, positions, sequences, tables, wanted, slots):
        logits = step(ids, positions, sequences, tables, wanted, slots)
        logits[: int(len(wanted) > 1), 3] = float("nan")
        return logits

    monkeypatch.setattr(scheduler._model, "step", spoilt)
    errors: list[Exception] = []
    first, second = generation_of(0, [1, 2, 3], 6), generation_of(2, [4, 5], 6)
    first.failed = second.failed = errors.append
    for generation in (first, second):
        scheduler.add(generation)
    while scheduler.has_work():
        scheduler.step()
        scheduler.check()
    assert ["not finite" in str(error) for error in errors] == [True]
    assert len(second.ids) == 6
    assert scheduler._model.pool.free == 12


def test_blocks_are_lent_found_again_and_run_out() -> None:
    pool = BlockPool(4)
    tokens = list(range(3 * BLOCK))
    names = list(block_names(tokens, "a"))
    assert names != list(block_names(tokens, "b"))
    assert names[2:] == list(block_names(tokens[2 * BLOCK :], "a", after=names[1]))
    held = pool.take(3)
    for block, name in zip(held, names, strict=True):
        pool.remember(block, name)
    with pytest.raises(CapacityError, match="1 free"):
        pool.take(2)
    pool.give_back(held)
    assert pool.free == 4
    again = pool.find(names[:2])
    assert again == held[:2]
    pool.check([again])
    assert len(pool.take(2)) == 2  # the third one's past is gone
    assert pool.find(names) == held[:2]
    pool.forget_all()
    assert pool.find(names) == []
