"""Putting a model away and taking it up again, and the engine's own numbers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hanok.engine.api import Completion, Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, InputError
from hanok.kernels.native import native_available

LLAMA = {"pattern": ("gqa",), "num_heads": 4, "num_kv_heads": 2, "hidden_size": 64, "initializer_range": 0.15}
WEIGHTS = [
    "float32",
    pytest.param("bf16", marks=pytest.mark.skipif(not native_available(), reason="not built")),
]
LONG = SamplingParams(max_tokens=60, ignore_eos=True, seed=1)


@pytest.fixture(params=WEIGHTS)
def llama(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType
) -> Iterator[LocalEngine]:
    path = tiny.save_tiny_model(tmp_path_factory.mktemp("llama") / "model", seed=3, **LLAMA)
    engine = LocalEngine(path, weights=request.param)
    yield engine
    engine.close()


def ask(engine: LocalEngine, params: SamplingParams = LONG, **fields: object) -> Completion:
    return engine.generate([Request(id="one", prompt_ids=range(20, 120), params=params, **fields)])[0]  # type: ignore[arg-type]


def in_background(engine: LocalEngine, found: list[Completion], *, seen: str) -> threading.Thread:
    """Returns once the engine's numbers show the request."""
    before, thread = len(found), threading.Thread(target=lambda: found.append(ask(engine)))
    thread.start()
    while len(found) == before and not getattr(engine.metrics(), seen):
        time.sleep(0.001)
    return thread


def test_answers_before_during_and_after(llama: LocalEngine) -> None:
    expected, scores = ask(llama), llama.score(range(20, 60))
    found: list[Completion] = []
    running = in_background(llama, found, seen="requests_running")
    llama.sleep()
    running.join()
    assert found[0].ids == expected.ids  # it was finished before
    assert llama.metrics().asleep
    llama.sleep()  # again: nothing happens

    waiting = in_background(llama, found, seen="requests_waiting")
    time.sleep(0.1)
    assert len(found) == 1
    assert llama.metrics().requests_waiting == 1
    late = ask(llama, deadline=time.monotonic() + 0.2)
    assert late.finish_reason == "cancelled"  # a deadline counts in sleep too
    for call in (
        lambda: llama.score([20, 30]),
        lambda: llama.embed([20], 0),
        lambda: llama.update_weights({}),
    ):
        with pytest.raises(InputError, match="asleep"):
            call()

    llama.wake()
    waiting.join()
    assert found[1].ids == expected.ids
    assert llama.score(range(20, 60)) == scores
    llama.wake()
    assert ask(llama).ids == expected.ids


def test_tensors_that_the_directory_lacks_are_not_lost_silently(llama: LocalEngine) -> None:
    before = llama.score(range(20, 60))
    llama.update_weights({"norm.weight": torch.full((64,), 0.5)})
    with pytest.raises(ConfigError, match="not those of the directory"):
        llama.sleep()
    assert llama.score(range(20, 60)) != before
    llama.sleep(forget_updates=True)
    llama.wake()
    assert llama.score(range(20, 60)) == before


def test_a_sleeping_engine_closes(llama: LocalEngine) -> None:
    llama.sleep()
    found: list[Completion] = []
    waiting = in_background(llama, found, seen="requests_waiting")
    llama.close()
    waiting.join()
    assert found[0].finish_reason == "cancelled"


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("weights", WEIGHTS)
def test_sleep_gives_memory_back(tmp_path: Path, tiny: ModuleType, weights) -> None:
    path = tiny.save_tiny_model(
        tmp_path / "model", pattern=("gqa",), num_heads=8, num_kv_heads=8, head_dim=64, hidden_size=512,
        num_layers=8, intermediate_size=1408,
    )  # fmt: skip
    engine = LocalEngine(path, weights=weights)
    size = sum(p.numel() for p in engine.decoder.parameters()) * (4 if weights == "float32" else 2)
    short = SamplingParams(max_tokens=4, ignore_eos=True, temperature=0.0)
    answer = ask(engine, short)
    awake = resident()
    engine.sleep()
    asleep = resident()
    assert size > 40e6
    assert awake - asleep > 0.9 * size
    engine.wake()
    assert ask(engine, short).ids == answer.ids
    assert resident() - asleep > 0.9 * size
    engine.close()


def test_metrics_add_up(llama: LocalEngine) -> None:
    fresh = llama.metrics()
    assert fresh.steps == 0
    params = SamplingParams(max_tokens=10, ignore_eos=True, seed=1)
    requests = [
        Request(id=str(n), prompt_ids=[*range(20, 190), n + 10], params=params)
        for n in range(3)
        for _ in "ab"
    ]
    done = llama.generate(requests[:1]) + llama.generate(requests[1:])
    numbers = llama.metrics()
    assert numbers.generated_tokens == sum(one.usage.completion_tokens for one in done) == 60
    assert numbers.cached_tokens == sum(one.usage.cached_tokens for one in done)
    assert numbers.prefilled_tokens + numbers.cached_tokens == sum(one.usage.prompt_tokens for one in done)
    assert (numbers.requests_running, numbers.requests_waiting, numbers.preemptions) == (0, 0, 0)
    assert 0 <= numbers.accepted_tokens <= numbers.drafted_tokens
    assert numbers.blocks_held == 0
    if llama.weights != "float32":
        assert numbers.cached_tokens == 5 * 128
        assert numbers.blocks_idle >= 2
        assert numbers.blocks_idle + numbers.blocks_free == fresh.blocks_free > 0
    llama.sleep()  # waits for the end of the last step
    numbers = llama.metrics()
    assert (numbers.generated_tokens, numbers.blocks_free) == (60, 0)  # sums outlive sleep
    assert numbers.steps >= 18  # ten tokens each time; a prompt and the first token after it may share a step
    assert numbers.model_seconds > 0
    assert numbers.scheduler_seconds > 0


@pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
def test_preemptions_are_counted(tmp_path: Path, tiny: ModuleType) -> None:
    path = tiny.save_tiny_model(tmp_path / "model", seed=3, **LLAMA)
    engine = LocalEngine(path, weights="int8", cache_bytes=6 * 4 * 2 * 2 * 64 * 16 * 2)
    params = SamplingParams(max_tokens=150, ignore_eos=True, seed=1)
    done = engine.generate(
        [Request(id=str(n), prompt_ids=range(20 + n, 170), params=params) for n in range(2)]
    )
    assert [len(one.ids) for one in done] == [150, 150]
    numbers = engine.metrics()
    assert numbers.preemptions > 0
    assert numbers.prefilled_tokens + numbers.cached_tokens > sum(one.usage.prompt_tokens for one in done)
    engine.close()
