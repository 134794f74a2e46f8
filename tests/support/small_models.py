"""Small models of each kind of cache, and requests for them, without an engine around."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from hanok.engine.api import Delta, Request, SamplingParams
from hanok.engine.generation import Generation, new_generation
from hanok.engine.native import NativeDecoder
from hanok.engine.paged import PagedScheduler
from hanok.engine.speculation.speculator import Speculator
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

SHAPE = {
    "vocab_size": 90, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "head_dim": 16, "intermediate_size": 96,
    "max_context": 640,
}  # fmt: skip
PATTERNS = {
    "full": {"pattern": ("gqa",), "num_kv_heads": 2},
    "hybrid": {"pattern": ("kda", "mla"), "kv_lora_rank": 16, "v_head_dim": 16},
    "recurrent": {"pattern": ("kda",)},
}


def decoder_of(kind: str, *, seed: int = 0, noise: float = 0.3, **changes: Any) -> Decoder:
    config = ModelConfig(**SHAPE | PATTERNS[kind] | changes)
    model = Decoder(config, generator=torch.Generator().manual_seed(seed)).requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    return model


def native_of(decoder: Decoder, blocks: int, *, snapshots: int = 6, slots: int = 16) -> NativeDecoder:
    recurrent = "kda" in decoder.config.layers
    return NativeDecoder(
        decoder, kind="int8", blocks=blocks, threads=2, slots=slots, spares=slots if recurrent else 0,
        snapshots=snapshots if recurrent else 0,
    )  # fmt: skip


def scheduler_of(
    decoder: Decoder,
    blocks: int,
    max_running: int = 16,
    snapshots: int = 6,
    speculator: Speculator | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PagedScheduler:
    model = native_of(decoder, blocks, snapshots=snapshots)
    return PagedScheduler(
        model, max_running=max_running, vocabulary=model.config.vocab_size, speculator=speculator, clock=clock
    )


def irregular_clock(seed: int) -> Callable[[], float]:
    """On which steps take any time, so that calls of the model have any number of them, each time the same."""
    draw, now = random.Random(seed), [0.0]

    def clock() -> float:
        now[0] += draw.choice([1e-5, 4e-4, 2e-3])
        return now[0]

    return clock


def generation_of(
    number: int, prompt: list[int], tokens: int, *, tenant: str = "", priority: int = 0, tokenizer: Any = None,
    listener: Callable[[Delta], None] = lambda delta: None, **params: Any,
) -> Generation:  # fmt: skip
    settings = {"temperature": 0.7 if number % 2 else 0.0, "seed": number} | params
    request = Request(
        id=str(number), prompt_ids=prompt, params=SamplingParams(max_tokens=tokens, **settings), tenant=tenant,
        priority=priority,
    )  # fmt: skip
    return new_generation(
        request, arrival=number, tokenizer=tokenizer or SimpleNamespace(stop_ids=()), context=640, listener=listener,
        failed=lambda error: None,
    )  # fmt: skip


def run(scheduler: PagedScheduler, *generations: Generation) -> None:
    for generation in generations:
        scheduler.add(generation)
    while scheduler.has_work():
        scheduler.step()
        scheduler.check()


def alone(decoder: Decoder, generation: Generation) -> list[int]:
    """Its answer on an engine that has nothing else and no past."""
    again = generation_of(
        generation.arrival, list(generation.request.prompt_ids), generation.request.params.max_tokens or 1
    )
    run(scheduler_of(decoder, blocks=12), again)
    return again.ids
