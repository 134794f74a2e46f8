"""What passes between an engine's thread and an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
import tiny_models

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.engine.post import HEAD_START, MOST_SECONDS, Post, Posts


def test_what_a_step_sends_wakes_the_loop_once_and_comes_in_order() -> None:
    async def run() -> tuple[list[int], int]:
        loop, got, wakes = asyncio.get_running_loop(), list[int](), 0
        usual = loop.call_soon_threadsafe

        def counted(*given: object) -> object:
            nonlocal wakes
            wakes += 1
            return usual(*given)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        post, done = Post(loop), threading.Event()

        def step() -> None:
            for number in range(50):
                post.send(got.append, number)
            done.set()

        threading.Thread(target=step).start()
        done.wait()  # the loop does not look meanwhile
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        post.send(got.append, 50)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return got, wakes

    assert asyncio.run(run()) == (list(range(51)), 2)


def test_a_listener_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fails(item: int) -> None:
        raise ValueError(f"not {item}")

    async def run() -> list[int]:
        got = list[int]()
        post = Post(asyncio.get_running_loop())
        for told in (got.append, fails, got.append):
            post.send(told, len(got))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return got

    assert asyncio.run(run()) == [0, 0]
    assert "an answer's listener failed" in caplog.text
    assert "not 0" in caplog.text


def test_nobody_listens_in_a_loop_that_is_closed() -> None:
    loop = asyncio.new_event_loop()
    post = Post(loop)
    loop.close()
    post.send(print, 1)


def test_those_that_come_in_turns_one_behind_the_other_are_handed_over_together() -> None:
    async def run(turns: int) -> list[int]:
        _, gathering = Posts().here()
        came, handed = list[int](), list[int]()
        for number in range(4):
            came.append(number)
            gathering.add(lambda: handed.append(len(came)))
            for _ in range(turns):
                await asyncio.sleep(0)
        while not handed or handed[-1] < 4:
            await asyncio.sleep(0)
        return handed

    assert asyncio.run(run(2)) == [4]
    assert asyncio.run(run(8)) == [1, 2, 3, 4]  # the control: what comes later is not waited for


def test_whoever_waits_for_that_goes_on_behind_it_and_at_the_latest_when_something_is_delivered() -> None:
    async def run(deliver: bool) -> tuple[list[str], float]:
        post, gathering = Posts().here()
        said = list[str]()
        await gathering.over()  # nobody gathers: at once
        gathering.add(lambda: said.append("handed over"))

        async def wait() -> None:
            await gathering.over()
            said.append("goes on")

        tasks = [asyncio.create_task(wait()) for _ in range(2)]
        while not said:
            await asyncio.sleep(0)
        began = time.monotonic()
        if deliver:
            post.send(said.append, "delivered")
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        return said, time.monotonic() - began

    assert asyncio.run(run(True))[0] == ["handed over", "delivered", "goes on", "goes on"]
    said, seconds = asyncio.run(run(False))
    assert said == ["handed over", "goes on", "goes on"]
    assert seconds >= HEAD_START / 2


def test_nobody_waits_longer_than_that() -> None:
    async def run() -> float:
        _, gathering = Posts().here()
        began, handed = time.monotonic(), list[float]()
        while not handed:
            gathering.add(lambda: handed.append(time.monotonic()))
            await asyncio.sleep(0)
        return handed[0] - began

    assert asyncio.run(run()) >= MOST_SECONDS * 0.9


def test_requests_of_one_moment_are_in_the_first_step_together(tmp_path: Path) -> None:
    engine = LocalEngine(tiny_models.save_tiny_model(tmp_path / "model"))
    seen: list[int] = []
    step = engine._scheduler.step

    def noted() -> None:
        seen.append(engine._scheduler.waiting)
        step()

    engine._scheduler.step = noted  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=2, temperature=0.0)

    async def one(number: int) -> int:
        for _ in range(2 * (number % 2)):  # some come a little later
            await asyncio.sleep(0)
        request = Request(id=str(number), prompt_ids=[1, 2, 3], params=params)
        return len([delta async for delta in engine.stream(request)])

    async def run() -> None:
        await asyncio.gather(*map(one, range(6)))

    try:
        asyncio.run(run())
        assert seen[0] == 6
    finally:
        engine.close()


def test_an_engine_that_is_done_with_goes_without_the_garbage_collector(tmp_path: Path) -> None:
    """A model that was replaced gives its memory back at once."""
    engine = LocalEngine(tiny_models.save_tiny_model(tmp_path / "model"))

    async def run(engine: LocalEngine) -> None:
        request = Request(id="1", prompt_ids=[1, 2], params=SamplingParams(max_tokens=1))
        async for _ in engine.stream(request):
            pass

    asyncio.run(run(engine))
    engine.close()
    gone = weakref.ref(engine)
    gc.collect()
    gc.disable()
    try:
        del engine
        assert gone() is None
    finally:
        gc.enable()
