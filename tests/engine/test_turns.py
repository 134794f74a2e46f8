"""Who is next: priorities first, then tenants by turns, then arrival."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.turns import Turns
from hanok.errors import CapacityError, QueueFullError
from hanok.kernels.native import native_available


def push(turns: Turns, small: ModuleType, number: int, tenant: str, *, length: int = 10, priority: int = 0):
    generation = small.generation_of(number, [1] * length, 5, tenant=tenant, priority=priority)
    turns.push(generation)
    return generation


def drain(turns: Turns, *, answer: int = 5) -> list[tuple[str, int]]:
    order = []
    while len(turns):
        generation = turns.pop()
        turns.serve(generation, answer)
        order.append((generation.request.tenant, generation.arrival))
    return order


def test_one_tenant_is_served_in_order(small: ModuleType) -> None:
    turns = Turns()
    for number in (3, 1, 2):
        push(turns, small, number, "")
    push(turns, small, 4, "", priority=-1)
    assert [number for _, number in drain(turns)] == [4, 1, 2, 3]


def test_a_crowd_does_not_keep_one_waiting(small: ModuleType) -> None:
    turns = Turns()
    for number in range(50):
        push(turns, small, number, "crowd")
    for number in range(50, 53):
        push(turns, small, number, "one")
    order = [tenant for tenant, _ in drain(turns)]
    assert order[:6] == ["crowd", "one"] * 3


def test_turns_are_of_tokens(small: ModuleType) -> None:
    """Long prompts cost their tenant turns; whoever asks for little is served more often."""
    turns = Turns()
    for number in range(40):
        push(turns, small, number, "long", length=100)
        push(turns, small, 100 + number, "short", length=10)
    order = [tenant for tenant, _ in drain(turns, answer=0)]
    assert Counter(order[:22])["short"] == 20


def test_a_pause_saves_nothing_up(small: ModuleType) -> None:
    turns = Turns()
    for number in range(30):
        push(turns, small, number, "steady")
    for _ in range(20):
        turns.pop()
    push(turns, small, 100, "late")
    for number in range(101, 110):
        push(turns, small, number, "late")
    assert [tenant for tenant, _ in drain(turns)][:6].count("late") in (3, 4)


def test_put_back_and_ended(small: ModuleType) -> None:
    turns = Turns()
    first, second = push(turns, small, 0, "a"), push(turns, small, 1, "b")
    assert turns.pop() is first
    turns.put_back(first)
    assert len(turns) == 2
    assert turns.first() is first
    first.finish("cancelled")
    turns.remove_finished()
    assert list(turns) == [second]
    turns.clear()
    assert not len(turns)


@pytest.mark.parametrize("seed", range(5))
def test_nobody_falls_far_behind(small: ModuleType, seed: int) -> None:
    """While two tenants both wait, what they were served differs by two of the longest requests at most."""
    draw, turns, served = random.Random(seed), Turns(), Counter[str]()
    for number in range(300):
        push(turns, small, number, "ab"[number % 2], length=draw.choice([1, 30, 200]))
    waiting = Counter(a=150, b=150)
    while waiting["a"] and waiting["b"]:
        generation = turns.pop()
        tokens = draw.choice([1, 50])
        turns.serve(generation, tokens)
        served[generation.request.tenant] += len(generation.request.prompt_ids) + tokens
        waiting[generation.request.tenant] -= 1
        assert abs(served["a"] - served["b"]) <= 2 * 250


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_the_scheduler_keeps_turns(small: ModuleType) -> None:
    decoder, ended = small.decoder_of("full"), []
    scheduler = small.scheduler_of(decoder, 12, max_running=2)
    for number in range(12):
        tenant = "one" if number == 11 else "crowd"
        generation = small.generation_of(
            number, [number, 1], 8, tenant=tenant, temperature=0.0,
            listener=lambda delta, tenant=tenant: ended.append(tenant) if delta.finish_reason else None,
        )  # fmt: skip
        scheduler.add(generation)
    assert scheduler.waiting == 12
    while scheduler.has_work():
        scheduler.step()
    assert "one" in ended[:3]


def test_a_full_queue_takes_no_more(engine: LocalEngine, model_dir: Path) -> None:
    small_queue = LocalEngine(model_dir, max_running=2, max_waiting=3)
    requests = [Request(id=str(n), prompt_ids=[5], params=SamplingParams(max_tokens=2)) for n in range(6)]
    with pytest.raises(QueueFullError, match="try again in 5 seconds") as caught:
        small_queue.generate(requests)
    assert isinstance(caught.value, CapacityError)
    assert caught.value.retry_after == 5
    assert len(small_queue.generate(requests[:5])) == 5
    assert len(engine.generate(requests)) == 6

    async def many() -> list[int]:
        streams = [small_queue.stream(request) for request in requests[:5]]
        return [sum([len(delta.ids) async for delta in stream]) for stream in streams]

    assert asyncio.run(many())
    small_queue.close()
