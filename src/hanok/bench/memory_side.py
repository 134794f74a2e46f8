"""What our engine takes up and how long it takes to start: `python -m hanok.bench.memory_side DIR JSON`, a process a start."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def measure(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Resident bytes of the bare process, after loading and behind a full cache; seconds until the engine can be asked.

    Args:
        settings: threads, kind, cache (bytes), fill (whether to); began: when the process was asked for, seconds of `time.time`.
    """
    from hanok.engine.api import Request, SamplingParams
    from hanok.engine.blocks import BLOCK
    from hanok.engine.generator import LocalEngine
    from hanok.kernels.native import native

    native()
    result: dict[str, Any] = {"bare": resident(), "imported": time.time() - settings["began"]}
    start = time.perf_counter()
    engine = LocalEngine(
        directory, threads=settings["threads"], weights=settings["kind"], cache_bytes=settings["cache"], speculation="off"
    )  # fmt: skip
    result |= {
        "load": time.perf_counter() - start, "ready": time.time() - settings["began"], "loaded": resident(),
    }  # fmt: skip
    assert engine._paged is not None
    result |= {"weights": engine._paged.weight_bytes, "cache": engine._paged.cache_bytes}
    if settings["fill"]:
        length = (
            min((engine.max_context - 1) // BLOCK, 16) * BLOCK
        )  # full blocks, which stay after their prompt
        free = engine.metrics().blocks_free
        for number in range(-(-free * BLOCK // length)):
            prompt = [(number * 7919 + 31 * place) % engine.config.vocab_size for place in range(length)]
            params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
            engine.generate([Request(id=str(number), prompt_ids=prompt, params=params)])
        result |= {"full": resident(), "blocks": engine.metrics().blocks_idle}
    engine.close()
    return result


def resident() -> int:
    """Bytes of this process in memory, files that it has mapped included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
