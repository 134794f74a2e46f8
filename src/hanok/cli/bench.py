"""`hanok bench`."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import tyro

from hanok.errors import ConfigError, did_you_mean

BENCHMARKS = {
    name: f"hanok.bench.{name}"
    for name in (
        "accuracy",
        "compress",
        "busy",
        "decode",
        "delethink",
        "documents",
        "guard",
        "hybrid",
        "kda",
        "long_context",
        "memory",
        "orders",
        "overlap",
        "parity",
        "prefill",
        "prefix",
        "scaling",
        "serve",
        "service",
        "shrunk",
        "small",
        "spec",
        "train",
        "watermark",
    )
}


def bench(
    name: Annotated[str, tyro.conf.Positional], quick: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Compare with named peers on this machine in one run.

    * compress: what `hanok compress --target` costs, against llama.cpp's, HQQ's and torchao's four bits
    * accuracy: what rounding weights to 8 and 4 bits costs, against llama.cpp's formats
    * busy: how much of its speed decoding keeps while another process takes a core
    * decode: tokens a second of one stream and of many, against llama.cpp
    * delethink: thinking in chunks, against one context that grows
    * documents: search in documents and "I don't know" on Korean questions, against tantivy
    * guard: guard and audit, against the service without them
    * hybrid: reading prompts by a hybrid's delta layers, against the same layers in PyTorch
    * kda: delta attention, forward and backward, against softmax attention and other forms of it
    * long_context: a hybrid at up to a million tokens, against latent and grouped attention everywhere
    * memory: what an engine takes up beside its weights and its cache, and how long it takes to start
    * orders: what detectors of orders in text and in documents find and cost, and who gets by
    * overlap: updates a second where generator and learner work at the same time, against in turn
    * parity: practice after next-token prediction, against the law of how answers grow long
    * prefill: reading prompts, against llama.cpp and transformers
    * prefix: the second turn of a conversation, against a cold cache
    * scaling: the ends of runs of practice, predicted from their first halves
    * serve: many streams over HTTP, against llama-server, OpenVINO GenAI and vLLM
    * service: keys, limits, accounting, logs and idle connections, against the engine alone
    * shrunk: decoding without 30 % of the layers' parameters, against the original
    * small: one stream of a model of 5 million parameters, against llama.cpp and transformers; Python's share
    * spec: guessing tokens from the text, against not guessing
    * train: bits per byte after the same time, against transformers' Trainer
    * watermark: what it finds, whom it accuses, what it costs a step and the text

    Args:
        name: one of the above.
        quick: a version of some minutes at most.
        device: of decode: cuda or cuda:N measures the engine on a GPU against transformers there, cpu-torch the same path on
            the CPU.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f'no benchmark "{name}"', remedy=did_you_mean(name, BENCHMARKS))
    if device != "cpu":
        if name != "decode":
            raise ConfigError(f"{name} runs on the CPU", remedy="leave --device out, or choose decode")
        from hanok.bench.on_device import run

        return {"rows": run(device, quick=quick)}
    rows = importlib.import_module(BENCHMARKS[name]).run(quick=quick)
    return {"rows": rows}
