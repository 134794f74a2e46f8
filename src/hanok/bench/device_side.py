"""Our engine on a device, whole answers through `generate`: `python -m hanok.bench.device_side DIR JSON`.

In a process of its own, as `transformers_peer` is.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine

PROMPT = 30  # tokens, where many answer at once


def measure(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of answers: {"contexts": by the prompt's length, "streams": by the number of answers at once}.

    Settings: device, kind, threads, contexts, streams, tokens, repeats. What is measured was done once before.
    """
    engine = LocalEngine(
        directory, device=settings["device"], weights=settings["kind"], threads=settings["threads"],
        max_running=max([1, *settings["streams"]]),
    )  # fmt: skip
    result: dict[str, Any] = {"contexts": {}, "streams": {}}
    try:
        for length in settings["contexts"]:
            result["contexts"][length] = _seconds(engine, [length], settings)
        for count in settings["streams"]:
            result["streams"][count] = _seconds(engine, [PROMPT] * count, settings)
    finally:
        engine.close()
    return result


def prompts(vocabulary: int, lengths: Sequence[int], seed: str) -> list[list[int]]:
    """Random tokens, so that prompts of two seeds, or two of one, begin with nothing in common."""
    draw = random.Random(seed)
    return [draw.choices(range(vocabulary), k=length) for length in lengths]


def _seconds(engine: LocalEngine, lengths: list[int], settings: Mapping[str, Any]) -> list[float]:
    """Each time with prompts of their own, so that nothing is found in the cache."""
    params = SamplingParams(max_tokens=settings["tokens"], temperature=0.0, ignore_eos=True)
    found = []
    for repeat in range(settings["repeats"] + 1):
        drawn = prompts(engine.config.vocab_size, lengths, f"{lengths} {repeat}")
        requests = [Request(id=str(n), params=params, prompt_ids=ids) for n, ids in enumerate(drawn)]
        start = time.perf_counter()
        answers = engine.generate(requests)
        found.append(time.perf_counter() - start)
        assert all(len(answer.ids) == settings["tokens"] for answer in answers)
        assert not any(answer.usage.cached_tokens for answer in answers)
    return found[1:]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
