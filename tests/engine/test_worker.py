"""When the engine's thread dies or a step fails: whoever waits is told, and the next request is answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hanok.engine.api import Delta, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import EngineError
from hanok.kernels.native import native_available

LLAMA = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
PARAMS = SamplingParams(max_tokens=60, ignore_eos=True, temperature=0.0)
WEIGHTS = [
    "float32",
    pytest.param("bf16", marks=pytest.mark.skipif(not native_available(), reason="not built")),
]
SOON = 5.0


@pytest.fixture(params=WEIGHTS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType
) -> Iterator[LocalEngine]:
    path: Path = tiny.save_tiny_model(tmp_path_factory.mktemp("worker") / "model", seed=3, **LLAMA)
    engine = LocalEngine(path, weights=request.param)
    yield engine
    engine.close()


def ask(engine: LocalEngine, name: str = "one") -> tuple[int, ...]:
    return engine.generate([Request(id=name, prompt_ids=range(20, 90), params=PARAMS)])[0].ids


def fail_at(engine: LocalEngine, number: int, error: BaseException, *, company: int = 1) -> None:
    """The scheduler's step of that number raises, once, counted from when so many requests are open."""
    step, count = engine._scheduler.step, 0

    def counted() -> None:
        nonlocal count
        count += len(engine._open) >= company
        if count == number:
            engine._scheduler.step = step  # type: ignore[method-assign]
            raise error
        step()

    engine._scheduler.step = counted  # type: ignore[method-assign]


async def read(engine: LocalEngine, name: str) -> list[Delta]:
    found: list[Delta] = []
    async for delta in engine.stream(Request(id=name, prompt_ids=range(20, 90), params=PARAMS)):
        found.append(delta)
    return found


@pytest.mark.parametrize("error", [SystemExit(3), RuntimeError("a step failed"), MemoryError()])
def test_every_open_stream_is_told_and_the_next_is_answered(
    engine: LocalEngine, error: BaseException
) -> None:
    expected = ask(engine)
    fail_at(engine, 2, error, company=5)

    async def all_of_them() -> list[Any]:
        waiting = (read(engine, str(number)) for number in range(5))
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), SOON)

    began = time.monotonic()
    kind = EngineError if isinstance(error, SystemExit) else type(error)
    assert [type(one) for one in asyncio.run(all_of_them())] == [kind] * 5
    assert time.monotonic() - began < SOON
    assert ask(engine) == expected
    engine._scheduler.check()
    numbers = engine.metrics()
    assert (numbers.requests_running, numbers.requests_waiting, numbers.blocks_held) == (0, 0, 0)
    assert not engine._open


def test_generate_is_told_too(engine: LocalEngine) -> None:
    fail_at(engine, 5, SystemExit(3))
    with pytest.raises(EngineError, match="the engine stopped"):
        ask(engine)
    assert engine.pulse().died == 1
    assert len(ask(engine)) == 60


def test_a_scheduler_that_cannot_be_trusted_is_made_anew(engine: LocalEngine) -> None:
    expected = ask(engine)
    before = engine._scheduler

    def lost() -> None:
        raise AssertionError("a block is held twice")

    before.check = lost  # type: ignore[method-assign]
    fail_at(engine, 5, SystemExit(3))
    with pytest.raises(EngineError):
        ask(engine)
    assert ask(engine) == expected
    assert engine._scheduler is not before


def test_weights_that_are_nowhere_else_are_not_lost_in_silence(engine: LocalEngine) -> None:
    engine.update_weights({"norm.weight": engine.decoder.norm.weight * 1.5})
    engine._scheduler.check = lambda: (_ for _ in ()).throw(AssertionError())  # type: ignore[method-assign]
    fail_at(engine, 5, SystemExit(3))
    with pytest.raises(EngineError):
        ask(engine)
    deadline = time.monotonic() + SOON
    while engine.pulse().broken is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(EngineError, match="the engine is broken"):
        ask(engine)


def test_a_step_that_hangs_does_not_hold_those_who_wait(engine: LocalEngine) -> None:
    free = threading.Event()
    step = engine._scheduler.step

    def hang() -> None:
        engine._scheduler.step = step  # type: ignore[method-assign]
        free.wait(30)
        step()

    engine._scheduler.step = hang  # type: ignore[method-assign]
    errors: list[BaseException] = []

    def ask_and_fail() -> None:
        try:
            ask(engine)
        except EngineError as error:
            errors.append(error)

    thread = threading.Thread(target=ask_and_fail)
    thread.start()
    while engine.pulse().since is None:
        time.sleep(0.001)
    assert engine.interrupt(EngineError("it hangs")) == 1
    thread.join(SOON)
    assert [str(error) for error in errors] == ["it hangs"]
    free.set()
    assert len(ask(engine)) == 60


def test_how_long_requests_waited(engine: LocalEngine) -> None:
    ask(engine)
    ask(engine)
    waits = engine.drain_waits()
    assert len(waits) == 2
    assert all(0 <= one < SOON for one in waits)
    assert engine.drain_waits() == []
