"""Our engine alone under the load that a server gets: `python -m hanok.bench.engine_side DIR JSON`.

In a process of its own; so many streams, each sending its next request when the last one is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine


def measure(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"seconds", "first": seconds to the first token of each request, "bursts": the same of each burst}.

    Settings: kind, threads, streams, tokens, prompts; warm, prompts answered before them; bursts, each of prompts for `streams`
    requests at once, and burst_tokens, how many tokens answer each of them.
    """
    engine = LocalEngine(directory, weights=settings["kind"], threads=settings["threads"], speculation="off")
    try:
        asyncio.run(_load(engine, settings["warm"], streams=settings["streams"], tokens=settings["tokens"]))
        found = asyncio.run(
            _load(engine, settings["prompts"], streams=settings["streams"], tokens=settings["tokens"])
        )
        bursts = [
            asyncio.run(_load(engine, burst, streams=settings["streams"], tokens=settings["burst_tokens"]))
            for burst in settings["bursts"]
        ]
        return {**found, "bursts": [one["first"] for one in bursts]}
    finally:
        engine.close()


async def _load(
    engine: LocalEngine, prompts: Sequence[Sequence[int]], *, streams: int, tokens: int
) -> dict[str, Any]:
    waiting = iter(enumerate(prompts))
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    start = time.perf_counter()
    firsts = await asyncio.gather(*(_stream(engine, waiting, params) for _ in range(streams)))
    return {"seconds": time.perf_counter() - start, "first": [one for found in firsts for one in found]}


async def _stream(
    engine: LocalEngine, waiting: Iterator[tuple[int, Sequence[int]]], params: SamplingParams
) -> list[float]:
    found: list[float] = []
    for number, ids in waiting:
        start, first = time.perf_counter(), 0.0
        async for delta in engine.stream(Request(id=str(number), prompt_ids=ids, params=params)):
            first = first or (time.perf_counter() - start if delta.ids else 0.0)
        found.append(first)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
