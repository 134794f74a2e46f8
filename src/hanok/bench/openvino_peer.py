"""OpenVINO GenAI's continuous batching on a GGUF file, without HTTP: `python -m hanok.bench.openvino_peer FILE JSON`.

In a process of its own, with `PYTHONPATH` where its packages are. It is asked as a server would be: so many streams at once,
each with its next prompt when the last one is answered.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

_CACHE_GIB = 1


def measure(file: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of each load: seconds in all, and to the first token of each request.

    Args:
        settings: threads; loads: {streams, prompts (ids)}; tokens of each answer.
    """
    openvino: Any = import_module("openvino")
    genai: Any = import_module("openvino_genai")
    start = time.perf_counter()
    scheduling = genai.SchedulerConfig()
    scheduling.cache_size, scheduling.enable_prefix_caching = _CACHE_GIB, False
    scheduling.max_num_seqs = max(load["streams"] for load in settings["loads"])
    pipeline = genai.ContinuousBatchingPipeline(
        file, scheduling, "CPU", {"INFERENCE_NUM_THREADS": settings["threads"]}
    )
    greedy = genai.GenerationConfig()
    greedy.max_new_tokens, greedy.ignore_eos, greedy.do_sample = settings["tokens"], True, False
    result: dict[str, Any] = {"start": time.perf_counter() - start, "loads": []}

    def add(number: int, ids: Sequence[int]) -> Any:
        return pipeline.add_request(number, openvino.Tensor(np.array([ids], dtype=np.int64)), greedy)

    put_load(pipeline, add, genai, settings["loads"][0]["prompts"][:1], 1, settings["tokens"])
    for load in settings["loads"]:
        result["loads"].append(
            put_load(pipeline, add, genai, load["prompts"], load["streams"], settings["tokens"])
        )
    return result


def put_load(
    pipeline: Any, add: Any, genai: Any, prompts: Sequence[Sequence[int]], streams: int, tokens: int
) -> dict[str, Any]:
    waiting, running, firsts = deque(enumerate(prompts)), {}, {}
    counts = dict.fromkeys(range(len(prompts)), 0)
    start = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < streams:
            number, ids = waiting.popleft()
            running[number] = (add(number, ids), time.perf_counter())
        pipeline.step()
        now = time.perf_counter()
        for number, (handle, began) in list(running.items()):
            while handle.can_read():
                counts[number] += sum(len(part.generated_ids) for part in handle.read().values())
                firsts.setdefault(number, now - began)
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                del running[number]
    seconds = time.perf_counter() - start
    assert set(counts.values()) == {tokens}, f"answers of {sorted(set(counts.values()))} tokens"
    return {"seconds": seconds, "first": list(firsts.values())}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
