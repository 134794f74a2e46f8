"""transformers on a model directory: `python -m hanok.bench.transformers_peer DIR JSON`, in a process of its own.

Reading a prompt is one call of the model for the last position's logits; answers come from its own `generate`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from hanok.bench.device_side import PROMPT


def measure(directory: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of reading each prompt, and of each answer.

    Args:
        settings: threads, dtype, device (by default the CPU), prompts, repeats; prompt, tokens, answers and cache ("dynamic",
            "static") of `generate`; contexts and streams as of `device_side`.
    """
    torch.set_num_threads(settings["threads"])
    transformers: Any = import_module("transformers")
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, settings["dtype"]), attn_implementation="sdpa"
    ).eval().to(settings.get("device", "cpu"))  # fmt: skip
    result: dict[str, Any] = {"prefill": {}, "answers": [], "contexts": {}, "streams": {}}
    with torch.inference_mode():
        for length in settings["prompts"]:
            _read(model, min(length, 512))
            result["prefill"][length] = [_read(model, length) for _ in range(settings["repeats"])]
        for _ in range(settings.get("answers", 0)):
            result["answers"].append(_answer(model, settings))
        for group, rows_and_length in (("contexts", lambda n: (1, n)), ("streams", lambda n: (n, PROMPT))):
            for number in settings.get(group, ()):
                rows, length = rows_and_length(number)
                answer = {**settings, "prompt": length, "rows": rows}
                found = [_answer(model, answer) for _ in range(settings["repeats"] + 1)]
                result[group][number] = found[1:]
    return result


def _ids(model: Any, length: int, rows: int = 1) -> torch.Tensor:
    ids = [
        [(1000 + 37 * place + 101 * n) % model.config.vocab_size for place in range(length)]
        for n in range(rows)
    ]
    return torch.tensor(ids, device=model.device)


def _read(model: Any, length: int) -> float:
    ids = _ids(model, length)
    start = time.perf_counter()
    model(ids, logits_to_keep=1, use_cache=True)
    return time.perf_counter() - start


def _answer(model: Any, settings: Mapping[str, Any]) -> float:
    ids, tokens = _ids(model, settings["prompt"], settings.get("rows", 1)), settings["tokens"]
    static = {"cache_implementation": "static"} if settings["cache"] == "static" else {}
    start = time.perf_counter()
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
        pad_token_id=0, **static,
    )  # fmt: skip
    out = out.cpu()  # a GPU is done then
    seconds = time.perf_counter() - start
    assert out.shape[1] == settings["prompt"] + tokens
    return seconds


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
