"""A long time in company over HTTP: answers of mixed lengths, streamed or not, of the model and of adapters, some given up in the
middle. Memory, cache blocks, descriptors and threads must not grow. `HANOK_SOAK_SECONDS`: 600 unless set; `make soak` takes two.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving

from hanok.engine.generator import LocalEngine
from hanok.kernels.memory import release_memory
from hanok.kernels.native import native_available

SECONDS = float(os.environ.get("HANOK_SOAK_SECONDS", "600"))
CLIENTS = 12
SLOPE = 1 << 20  # bytes of resident memory a minute, after the first quarter


@dataclass
class Notes:
    """Args: looks: (seconds, resident bytes, descriptors, threads) now and then."""

    done: int = 0
    dropped: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    looks: list[tuple[float, int, int, int]] = field(default_factory=list)


@pytest.fixture
def soaked(served_model: Path, served_adapters: dict[str, Path]) -> Iterator[Any]:
    options = {"max_running": 8, "max_waiting": 16, "cache_bytes": 4 << 20, "adapters": served_adapters}
    with serving.service(served_model, **options) as running:
        yield running


async def one_client(server: Any, notes: Notes, end: float, seed: int) -> None:
    draw = random.Random(seed)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as http:
        while time.monotonic() < end:
            body = {
                "model": draw.choice([server.model, *server.engine.adapters]), "store": False, "seed": draw.randrange(1 << 20),
                "messages": [{"role": "user", "content": "word " * draw.choice([1, 10, 60, 200])}],
                "max_tokens": draw.choice([1, 20, 100, 400]), "ignore_eos": True, "stream": draw.random() < 0.7,
            }  # fmt: skip
            began = time.monotonic()
            events = draw.choice([3, 20, 10_000])
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    assert response.status_code == 503, await response.aread()
                    notes.refused += 1
                    await asyncio.sleep(0.05)
                    continue
                async for _ in response.aiter_lines():
                    events -= 1
                    if events == 0:
                        break
            if events:
                notes.done += 1
                notes.seconds.append(time.monotonic() - began)
            else:
                notes.dropped += 1


async def soak(server: Any, notes: Notes, seconds: float) -> None:
    end = time.monotonic() + seconds
    clients = [asyncio.create_task(one_client(server, notes, end, seed)) for seed in range(CLIENTS)]
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http:
        while time.monotonic() < end:
            await asyncio.sleep(max(1.0, seconds / 60))
            facts = (await http.get("/admin/status")).json()["process"]
            notes.looks.append((time.monotonic(), resident(), facts["open_fds"], facts["threads"]))
    await asyncio.gather(*clients)


def resident() -> int:
    gc.collect()
    release_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check(server: Any, notes: Notes) -> None:
    engine: LocalEngine = server.engine
    end = time.monotonic() + 10
    while time.monotonic() < end and (engine._open or engine.metrics().blocks_held):
        time.sleep(0.02)
    numbers = engine.metrics()
    assert not engine._open
    assert (numbers.blocks_held, numbers.requests_running, numbers.requests_waiting) == (0, 0, 0)
    engine._scheduler.check()
    assert engine.pulse().died == engine.pulse().failures == 0
    assert notes.done
    assert notes.dropped


def slope(notes: Notes) -> float:
    """Bytes a minute, least squares over all but the first quarter."""
    looks = notes.looks[len(notes.looks) // 4 :]
    return 60 * statistics.linear_regression([look[0] for look in looks], [look[1] for look in looks]).slope


@pytest.mark.skipif(not native_available(), reason="the cache's blocks are native")
def test_some_seconds_over_http(soaked: Any) -> None:
    notes = Notes()
    asyncio.run(soak(soaked, notes, 4.0))
    check(soaked, notes)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not native_available(), reason="the cache's blocks are native")
def test_a_long_time_over_http(soaked: Any) -> None:
    notes = Notes()
    asyncio.run(soak(soaked, notes, SECONDS))
    check(soaked, notes)
    quarter = len(notes.looks) // 4
    descriptors = [look[2] for look in notes.looks]
    threads = [look[3] for look in notes.looks]
    half = len(notes.seconds) // 2
    early, late = (
        sorted(part)[int(0.99 * len(part))] for part in (notes.seconds[:half], notes.seconds[half:])
    )
    print(
        f"\n{SECONDS:.0f} s: {notes.done:,} answers, {notes.dropped:,} given up, {notes.refused:,} refused; memory grows by "
        f"{slope(notes) / 2**20:.2f} MiB a minute, descriptors {descriptors[quarter]} to {max(descriptors[-quarter:])}, threads "
        f"{threads[quarter]} to {max(threads[-quarter:])}, p99 {early:.2f} to {late:.2f} s"
    )
    assert slope(notes) < SLOPE
    assert max(descriptors[-quarter:]) <= max(descriptors[quarter : 2 * quarter]) + 2 * CLIENTS
    assert max(threads[-quarter:]) <= max(threads[quarter : 2 * quarter]) + 2


def test_a_slope_is_seen() -> None:
    """The control: what grows is found."""
    notes = Notes(looks=[(float(second), second * (1 << 20), 10, 5) for second in range(100)])
    assert slope(notes) == pytest.approx(60 << 20)
