"""Our engine's kernels on a model directory, timed around one step: `python -m hanok.bench.native_side DIR JSON`.

In a process of its own, as `llama_peer` is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanok.engine.coverage import WIDTHS
from hanok.engine.native import BLOCK, NativeDecoder
from hanok.models.checkpoint import load_model

_PIECE = 512


def measure(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As `llama_peer.measure`; settings: kind, cache, threads, contexts, steps, prompts, repeats, streams."""
    contexts, prompts, streams, steps = (settings[key] for key in ("contexts", "prompts", "streams", "steps"))
    blocks = -(-(max([*contexts, *prompts, 0]) + steps + 1) // BLOCK)
    blocks = max(blocks, *(count * -(-(30 + steps) // BLOCK) for count in streams), 1)
    kind, finer = WIDTHS[settings["kind"]]
    with torch.inference_mode():
        model = NativeDecoder(
            load_model(directory, dtype="stored"),
            kind=kind,
            finer=finer,
            blocks=blocks,
            cache=settings.get("cache", "bf16"),
            threads=settings["threads"],
        )
    result: dict[str, Any] = {"decode": {}, "prefill": {}, "streams": {}, "weight_bytes": model.weight_bytes}
    table = model.pool.take(blocks)
    for length in prompts:
        _read(model, table, min(length, _PIECE))  # for the processor's caches
        result["prefill"][length] = [_read(model, table, length) for _ in range(settings["repeats"])]
    for length in contexts:
        _read(model, table, length)
        result["decode"][length] = [
            _timed(model, [7 + step], [length + step], [table], [0]) for step in range(steps)
        ]
    for count in streams:
        each = blocks // count
        tables = [table[number * each : (number + 1) * each] for number in range(count)]
        for one in tables:
            _read(model, one, 30)
        result["streams"][count] = [
            _timed(model, [7 + step] * count, [30 + step] * count, tables, list(range(count)))
            for step in range(steps)
        ]
    return result


def _read(model: NativeDecoder, table: list[int], length: int) -> float:
    total = 0.0
    for start in range(0, length, _PIECE):
        end = min(length, start + _PIECE)
        ids = [(1000 + 37 * place % 5000) % model.config.vocab_size for place in range(start, end)]
        total += _timed(
            model, ids, list(range(start, end)), [table], [end - start - 1] if end == length else []
        )
    return total


def _timed(
    model: NativeDecoder, ids: list[int], places: list[int], tables: list[list[int]], wanted: list[int]
) -> float:
    sequences = list(range(len(tables))) if len(tables) > 1 else [0] * len(ids)
    start = time.perf_counter()
    model.step(ids, places, sequences, tables, wanted)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), json.loads(sys.argv[2]))))
