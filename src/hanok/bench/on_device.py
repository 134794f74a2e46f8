"""`hanok bench decode --device DEVICE`: answers of our engine on a GPU, against transformers on the same one.

At the shape of Qwen3-0.6B (random weights), or of 5 million parameters where the device is the CPU (`cpu-torch`), which is to see
that everything runs. Whole answers, prompts counted, through each side's own `generate`, greedy: one stream behind a prompt,
and many behind short ones. Every width of ours is compared with transformers in bfloat16, with a growing or a static cache,
whichever is faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hanok.bench.decode import SHAPE
from hanok.bench.outcome import Rows, compare, present
from hanok.bench.sides import OURS, Side, take_turns
from hanok.bench.small import SMALL
from hanok.bench.words import make_chat_model
from hanok.engine.device.choice import ON_CPU, choose_device
from hanok.errors import ConfigError
from hanok.models.config import ModelConfig

KINDS = ("bf16", "int8", "int4")


def run(
    device: str, *, quick: bool = False, kinds: Sequence[str] = KINDS, rounds: int | None = None,
    folder: Path = Path("runs/bench"), work: Mapping[str, Any] | None = None,
    shape: ModelConfig | None = None, peers: bool = True,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them: `device/<kind>/ctx<length>/streams<count>`, tokens a second.

    Args:
        work: contexts, streams, tokens, repeats. shape: of another model. peers: whether to run them.

    Raises:
        ConfigError: a device that is not there, or "cpu", which `hanok bench decode` measures as it is.
    """
    if choose_device(device) is None:
        raise ConfigError(f'device = "{device}" is the CPU here', remedy=f"choose cuda, or {ON_CPU}")
    on_cpu = device == ON_CPU
    shapes = {True: (SMALL, "qwen3-5m-random"), False: (SHAPE, "qwen3-0.6b-random")}
    model = make_chat_model(folder, *(shapes[on_cpu] if shape is None else (shape, "tiny")))
    rounds = rounds or (1 if quick else 3)
    work = work or {
        "contexts": [64] if on_cpu else [64, 512, 4096], "streams": [8] if on_cpu or quick else [8, 16, 64],
        "tokens": 32 if on_cpu or quick else 128, "repeats": 1 if quick else 3,
    }  # fmt: skip
    sides = [Side(f"{OURS} {kind}", "device_side", model, {"kind": kind, "device": device}) for kind in kinds]
    absent = {}
    if peers and find_spec("transformers"):
        theirs = {"dtype": "bfloat16", "device": "cpu" if on_cpu else device}
        sides += [
            Side(f"transformers bf16, {cache} cache", "transformers_peer", model, theirs | {"cache": cache})
            for cache in ("dynamic", "static")
        ]
    elif peers:
        absent["transformers"] = "it is not installed"
    found = take_turns(f"answers on {device}", sides, rounds, lambda side: side.measure(**work))
    ours = {kind: found.pop(f"{OURS} {kind}") for kind in kinds}
    rows = [
        compare(
            case.format(kind), "answers, tokens a second", rates(results),
            {label: rates(peers) for label, peers in found.items()}, device=device,
        )
        for kind, results in ours.items() for case, rates in _cases(work)
    ]  # fmt: skip
    present(f"Answers on {device}, tokens a second", rows, folder / "device", absent=absent)
    return rows


def _cases(work: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name of a case and how its rates are read off a side's results, one a round."""

    def rates(group: str, key: int, tokens: int) -> Any:
        return lambda results: [tokens / statistics.median(one[group][str(key)]) for one in results]

    tokens = work["tokens"]
    one = [
        (f"device/{{}}/ctx{length}/streams1", rates("contexts", length, tokens))
        for length in work["contexts"]
    ]
    many = [
        (f"device/{{}}/ctx30/streams{count}", rates("streams", count, count * tokens))
        for count in work["streams"]
    ]
    return one + many
