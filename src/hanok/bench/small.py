"""Claim: a model of 5 million parameters (random weights) answers one stream at least 1.5 times as fast as llama.cpp and 3 times
as fast as transformers; Python takes less than 30 % of a step there, and less than 5 % at the shape of Qwen3-0.6B.

Whole answers through each side's own way of generating: a prompt of 16 tokens, greedy tokens behind it, guessing ahead switched
off. Each side takes the number of threads that it is fastest with; llama.cpp its better format and flash attention on or off,
transformers float32 or bfloat16 and a growing or a static cache. What counts as Python is all of an answer's time that is
not spent inside native calls: those that run the model and choose tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hanok.bench.decode import PEERS, SHAPE, make_gguf
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.sides import OURS, Side, fastest, take_turns
from hanok.bench.stopped import stoppable
from hanok.bench.words import make_chat_model
from hanok.models.config import ModelConfig

SMALL = ModelConfig(
    vocab_size=4096, hidden_size=256, num_layers=5, pattern=("gqa",), num_heads=4, num_kv_heads=2, head_dim=64,
    intermediate_size=768, max_context=2048, rope_theta=1e6, qk_norm=True, norm_eps=1e-6, family="qwen3",
)  # fmt: skip
KINDS = ("int4", "int8", "bf16")
PROMPT, SHARES = 16, {"5m": 0.30, "0.6b": 0.05}  # of a step, at most Python's


def run(
    *, quick: bool = False, kinds: tuple[str, ...] = KINDS, rounds: int | None = None, folder: Path = Path("runs/bench"),
    shapes: Mapping[str, tuple[ModelConfig, str]] | None = None, peers: bool = True,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them: `small/<kind>/<peer>`, tokens a second, and `python/<size>/<kind>`, shares.

    Args:
        shapes: "5m" and "0.6b" to the shape and name of a model, made if it is not in the folder. peers: whether to run them.
    """
    shapes = shapes or {"5m": (SMALL, "qwen3-5m-random"), "0.6b": (SHAPE, "qwen3-0.6b-random")}
    rounds = rounds or (2 if quick else 5)
    small = make_chat_model(folder, *shapes["5m"])
    files = make_gguf(small, folder) if peers else {}
    work = {"prompt": PROMPT, "tokens": 128 if quick else 256, "answers": 4}
    rows: Rows = []
    for kind in kinds:
        ours = _fastest(f"{kind}, ours", [("small_side", small, {"kind": kind}, OURS)], work)
        sides = [ours]
        if files:
            ways = [
                ("llama_peer", files[name], {"flash": flash}, f"llama.cpp {name}{', flash' if flash else ''}")
                for name in PEERS[kind] for flash in (False, True)
            ]  # fmt: skip
            sides.append(_fastest(f"{kind}, llama.cpp", ways, work))
        if kind == "bf16" and peers and find_spec("transformers"):
            ways = [
                ("transformers_peer", small, {"dtype": dtype, "cache": cache}, f"transformers {dtype}, {cache} cache")
                for dtype in ("float32", "bfloat16") for cache in ("dynamic", "static")
            ]  # fmt: skip
            sides.append(_fastest("transformers", ways, work))
        found = take_turns(f"small/{kind}", sides, rounds, lambda side: side.measure(**work))
        mine = found.pop(ours.label)
        rates = [_rate(one, work) for one in mine]
        for label, results in found.items():
            peer = label.split()[0]
            theirs = {label: [_rate(one, work) for one in results]}
            rows.append(compare(f"small/{kind}/{peer}", "tokens a second", rates, theirs))
        if not found:
            rows.append(compare(f"small/{kind}", "tokens a second", rates, {}))
        rows.append(_python("5m", kind, mine))
    large = make_chat_model(folder, *shapes["0.6b"])
    side = Side(OURS, "small_side", large, {"kind": kinds[0]})
    found = take_turns("python/0.6b", [side], rounds, lambda one: one.measure(**work | {"tokens": 48}))
    rows.append(_python("0.6b", kinds[0], found[OURS]))
    present("A small model, one stream", rows, folder / "small", absent=_absent() if peers else {})
    return rows


def _fastest(
    what: str, ways: Sequence[tuple[str, Path, Mapping[str, Any], str]], work: Mapping[str, Any]
) -> Side:
    """Of each way (module, model, settings, label) on one thread and on all."""
    most = torch.get_num_threads()
    sides = [
        Side(f"{label}, {threads} thread{'s' * (threads > 1)}", module, model, {**settings, "threads": threads})
        for module, model, settings, label in ways for threads in sorted({1, most})
    ]  # fmt: skip
    return fastest(what, sides, lambda side: _rate(side.measure(**work), work))


def _rate(result: Mapping[str, Any], work: Mapping[str, Any]) -> float:
    """Tokens a second, without the first answer: it is for buffers and the processor's caches."""
    return work["tokens"] / statistics.median(result["answers"][1:])


def _python(size: str, kind: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [
        statistics.median(
            1 - native / whole for native, whole in zip(one["native"][1:], one["answers"][1:], strict=True)
        )
        for one in results
    ]
    return compare(
        f"python/{size}/{kind}", "share outside native code", shares, {"the aim": [SHARES[size]]}, smaller=True,
        digits=3,
    )  # fmt: skip


def _absent() -> dict[str, str]:
    wanted = {"llama_cpp": ("llama.cpp", "make peers"), "transformers": ("transformers", "make setup-dev")}
    return {
        name: f"not installed: {remedy}" for module, (name, remedy) in wanted.items() if not find_spec(module)
    }


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="5, or 2 with --quick", kinds=(KINDS, KINDS))


if __name__ == "__main__":
    main()
