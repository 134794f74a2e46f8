"""llama.cpp on a GGUF file, timed around its own decode call: `python -m hanok.bench.llama_peer FILE JSON`.

In a process of its own, so that its threads and ours never share the cores.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

_UBATCH = 512


def measure(file: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each decode step at each context, and of reading each prompt.

    Args:
        settings: threads, flash (flash attention), contexts, steps, prompts, streams.
    """
    llama_cpp: Any = import_module("llama_cpp")
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    contexts, prompts, streams = settings["contexts"], settings["prompts"], settings["streams"]
    most = max([*contexts, *prompts, 0]) + settings["steps"] + 64
    result: dict[str, Any] = {"decode": {}, "prefill": {}, "streams": {}}
    context = _context(llama_cpp, model, most, 1, settings)
    for length in prompts:
        times = []
        for _ in range(settings["repeats"]):
            _clear(llama_cpp, context)
            times.append(_read(llama_cpp, context, length))
        result["prefill"][length] = times
    for length in contexts:
        _clear(llama_cpp, context)
        _read(llama_cpp, context, length)
        result["decode"][length] = [
            _timed(llama_cpp, context, [(7 + step, length + step, 0)]) for step in range(settings["steps"])
        ]
    llama_cpp.llama_free(context)
    for count in streams:
        context = _context(llama_cpp, model, count * 256, count, settings)
        for sequence in range(count):
            _read(llama_cpp, context, 30, sequence)
        result["streams"][count] = [
            _timed(llama_cpp, context, [(7 + step, 30 + step, sequence) for sequence in range(count)])
            for step in range(settings["steps"])
        ]
        llama_cpp.llama_free(context)
    return result


def _context(llama_cpp: Any, model: Any, tokens: int, sequences: int, settings: Mapping[str, Any]) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = tokens, sequences
    params.n_batch = params.n_ubatch = _UBATCH
    params.n_threads = params.n_threads_batch = settings["threads"]
    params.flash_attn_type = 1 if settings["flash"] else 0
    context = llama_cpp.llama_init_from_model(model, params)
    assert context, "llama.cpp makes no context"
    return context


def _clear(llama_cpp: Any, context: Any) -> None:
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


def _read(llama_cpp: Any, context: Any, length: int, sequence: int = 0) -> float:
    """Seconds for a prompt, with the logits of its last token."""
    total = 0.0
    for start in range(0, length, _UBATCH):
        end = min(length, start + _UBATCH)
        rows = [(1000 + 37 * place % 5000, place, sequence) for place in range(start, end)]
        total += _timed(llama_cpp, context, rows, last=end == length)
    return total


def _timed(
    llama_cpp: Any, context: Any, rows: Sequence[tuple[int, int, int]], *, last: bool | None = None
) -> float:
    """Seconds of one decode call. `last`: None wants logits everywhere, else whether behind the last row."""
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for number, (token, place, sequence) in enumerate(rows):
        batch.token[number], batch.pos[number] = token, place
        batch.n_seq_id[number], batch.seq_id[number][0] = 1, sequence
        batch.logits[number] = True if last is None else last and number == len(rows) - 1
    start = time.perf_counter()
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_get_logits(context)  # waits for the result
    seconds = time.perf_counter() - start
    llama_cpp.llama_batch_free(batch)
    return seconds


if __name__ == "__main__":
    found = measure(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps(found))
    print(
        {k: {n: round(1 / statistics.median(t), 1) for n, t in v.items()} for k, v in found.items()},
        file=sys.stderr,
    )
