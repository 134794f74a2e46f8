"""llama.cpp on a GGUF file, timed around its own decode call: `python -m hanok.bench.llama_peer FILE JSON`.

In a process of its own, so that its threads and ours never share the cores.
"""

from __future__ import annotations

import ctypes
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}
_UBATCH = 512
_CACHES = {"f16": 1, "q8_0": 8}  # as ggml numbers its types


def measure(file: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each decode step at each context, of reading each prompt, and of each answer.

    Args:
        settings: threads, flash (flash attention), cache ("f16", or "q8_0", which wants flash attention), contexts, steps,
            prompts, repeats, streams; ubatch (tokens of a batch); answers, each of a prompt of `prompt` tokens and `tokens`
            greedy ones.
    """
    llama_cpp = _library()
    model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    contexts, prompts, streams = settings["contexts"], settings["prompts"], settings["streams"]
    ubatch = settings.get("ubatch", _UBATCH)
    answers, long = settings.get("answers", 0), settings.get("prompt", 0) + settings.get("tokens", 0)
    most = max([*contexts, *prompts, long]) + settings["steps"] + 64
    result: dict[str, Any] = {"decode": {}, "prefill": {}, "streams": {}, "answers": []}
    context = _context(llama_cpp, model, most, 1, settings)
    for length in prompts:
        times = []
        for number in range(
            settings["repeats"] + 1
        ):  # the first is for its buffers and the processor's caches
            _clear(llama_cpp, context)
            seconds = _read(llama_cpp, context, length if number else min(length, 512), piece=ubatch)
            times.append(seconds)
        result["prefill"][length] = times[1:]
    for length in contexts:
        _clear(llama_cpp, context)
        _read(llama_cpp, context, length, piece=ubatch)
        result["decode"][length] = [
            _timed(llama_cpp, context, [(7 + step, length + step, 0)]) for step in range(settings["steps"])
        ]
    for _ in range(answers):
        result["answers"].append(_answer(llama_cpp, context, settings["prompt"], settings["tokens"]))
    llama_cpp.llama_free(context)
    for count in streams:
        context = _context(llama_cpp, model, count * 256, count, settings)
        for sequence in range(count):
            _read(llama_cpp, context, 30, sequence, piece=ubatch)
        result["streams"][count] = [
            _timed(llama_cpp, context, [(7 + step, 30 + step, sequence) for sequence in range(count)])
            for step in range(settings["steps"])
        ]
        llama_cpp.llama_free(context)
    return result


def quantise_gguf(plain: Path, file: Path, kind: str) -> Path:
    """The peer's own rounding of a BF16 file, made once. `kind`: of `FILE_TYPES`."""
    if not file.is_file():
        llama_cpp = _library()
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[kind]
        code = llama_cpp.llama_model_quantize(str(plain).encode(), str(file).encode(), ctypes.byref(params))
        assert code == 0, f"llama.cpp did not make {file}"
    return file


def bits_a_weight(file: Path) -> float:
    """Bits a weight of the matrices of a GGUF file."""
    import gguf

    tensors = [tensor for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1]
    return (
        8 * sum(int(tensor.n_bytes) for tensor in tensors) / sum(int(tensor.n_elements) for tensor in tensors)
    )


def peer_logits(file: Path, length: int, threads: int) -> Callable[[list[int]], Tensor]:
    """A function from at most `length` ids to float32 logits [ids, V]; without flash attention, the cache in float32.

    Raises:
        RuntimeError: llama.cpp does not load the file.
    """
    llama_cpp = _library()
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp does not load {file}")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = length
    settings.n_threads = settings.n_threads_batch = threads
    settings.type_k = settings.type_v = 0
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def logits(ids: list[int]) -> Tensor:
        _clear(llama_cpp, context)
        batch = _batch(llama_cpp, [(token, place, 0) for place, token in enumerate(ids)])
        assert llama_cpp.llama_decode(context, batch) == 0
        values = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(ids), vocabulary)).copy()
        llama_cpp.llama_batch_free(batch)
        return torch.from_numpy(values)

    return logits


@functools.cache
def _library() -> Any:
    """llama.cpp, silent. What it would log to must live as long as it does."""
    llama_cpp: Any = import_module("llama_cpp")
    llama_cpp.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(llama_cpp.silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def _context(llama_cpp: Any, model: Any, tokens: int, sequences: int, settings: Mapping[str, Any]) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = tokens, sequences
    params.n_batch = params.n_ubatch = settings.get("ubatch", _UBATCH)
    params.n_threads = params.n_threads_batch = settings["threads"]
    params.flash_attn_type = 1 if settings["flash"] else 0
    params.type_k = params.type_v = _CACHES[settings.get("cache", "f16")]
    context = llama_cpp.llama_init_from_model(model, params)
    assert context, "llama.cpp makes no context"
    return context


def _clear(llama_cpp: Any, context: Any) -> None:
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


def _read(llama_cpp: Any, context: Any, length: int, sequence: int = 0, *, piece: int = _UBATCH) -> float:
    """Seconds for a prompt, with the logits of its last token."""
    vocabulary = llama_cpp.llama_vocab_n_tokens(
        llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context))
    )
    total = 0.0
    for start in range(0, length, piece):
        end = min(length, start + piece)
        rows = [((1000 + 37 * place % 5000) % vocabulary, place, sequence) for place in range(start, end)]
        total += _timed(llama_cpp, context, rows, last=end == length)
    return total


def _answer(llama_cpp: Any, context: Any, prompt: int, tokens: int) -> float:
    """Seconds for a prompt and the greedy tokens behind it, chosen by its own sampler."""
    _clear(llama_cpp, context)
    sampler = llama_cpp.llama_sampler_init_greedy()
    start = time.perf_counter()
    ids = (ctypes.c_int32 * prompt)(*range(300, 300 + prompt))
    for _ in range(tokens):
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(ids))) == 0
        ids = (ctypes.c_int32 * 1)(llama_cpp.llama_sampler_sample(sampler, context, -1))
    seconds = time.perf_counter() - start
    llama_cpp.llama_sampler_free(sampler)
    return seconds


def _timed(
    llama_cpp: Any, context: Any, rows: Sequence[tuple[int, int, int]], *, last: bool | None = None
) -> float:
    """Seconds of one decode call. `last`: None wants logits everywhere, else whether behind the last row."""
    batch = _batch(llama_cpp, rows, last=last)
    start = time.perf_counter()
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_get_logits(context)  # waits for the result
    seconds = time.perf_counter() - start
    llama_cpp.llama_batch_free(batch)
    return seconds


def _batch(llama_cpp: Any, rows: Sequence[tuple[int, int, int]], *, last: bool | None = None) -> Any:
    """Of (token, place, sequence)."""
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for number, (token, place, sequence) in enumerate(rows):
        batch.token[number], batch.pos[number] = token, place
        batch.n_seq_id[number], batch.seq_id[number][0] = 1, sequence
        batch.logits[number] = True if last is None else last and number == len(rows) - 1
    return batch


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
