"""`hanok bench`."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import tyro

from hanok.errors import ConfigError, did_you_mean

BENCHMARKS = {
    name: f"hanok.bench.{name}"
    for name in ("accuracy", "busy", "decode", "kda", "long_context", "prefill", "prefix", "spec", "train")
}


def bench(name: Annotated[str, tyro.conf.Positional], quick: bool = False) -> dict[str, Any]:
    """Compare with named peers on this machine in one run.

    * accuracy: what rounding weights to 8 and 4 bits costs, against llama.cpp's formats
    * busy: how much of its speed decoding keeps while another process takes a core
    * decode: tokens a second of one stream and of many, against llama.cpp
    * kda: delta attention, forward and backward, against softmax attention and other forms of it
    * long_context: a hybrid at up to a million tokens, against latent and grouped attention everywhere
    * prefill: reading prompts, against llama.cpp and transformers
    * prefix: the second turn of a conversation, against a cold cache
    * spec: guessing tokens from the text, against not guessing
    * train: bits per byte after the same time, against transformers' Trainer

    Args:
        name: one of the above.
        quick: a version of some minutes at most.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f'no benchmark "{name}"', remedy=did_you_mean(name, BENCHMARKS))
    rows = importlib.import_module(BENCHMARKS[name]).run(quick=quick)
    return {"rows": rows}
