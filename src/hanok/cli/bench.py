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
        "busy",
        "decode",
        "delethink",
        "kda",
        "long_context",
        "parity",
        "prefix",
        "scaling",
        "spec",
        "train",
    )
}


def bench(name: Annotated[str, tyro.conf.Positional], quick: bool = False) -> dict[str, Any]:
    """Compare with named peers on this machine in one run.

    Args:
        name: accuracy, busy, decode, delethink, kda, long_context, parity, prefix, scaling, spec or train.
        quick: at most two minutes.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f'no benchmark "{name}"', remedy=did_you_mean(name, BENCHMARKS))
    rows = importlib.import_module(BENCHMARKS[name]).run(quick=quick)
    return {"rows": rows}
