"""Claim: at the shape of Qwen3-0.6B (random weights) a prompt of 512 or 4,096 tokens is read at least 3 times (8 bits), 2.5 times
(4 bits) and 1.4 times (bfloat16) as fast as by llama.cpp.

Only the logits behind the last token are computed, and nobody remembers an earlier prompt. llama.cpp may take the better of its
4-bit formats, flash attention on or off, and its best `n_ubatch`, found for each length before the rounds; in bfloat16
transformers runs too. Ours and the peers' processes take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hanok.bench.decode import PEERS, SHAPE, make_gguf, make_model, process
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.models.config import ModelConfig
from hanok.reporting import log

LENGTHS = (512, 4096)
KINDS = ("int4", "int8", "bf16")
_UBATCHES = (128, 256, 1024, 2048)
_PLAIN = 512  # llama.cpp's own choice of n_ubatch


@dataclass(frozen=True, slots=True)
class Side:
    """A program with its settings, to be run in a process of its own."""

    label: str
    module: str
    model: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    def rate(self, length: int) -> float:
        """Tokens a second."""
        settings = {
            "threads": torch.get_num_threads(), "contexts": [], "steps": 0, "streams": [], "prompts": [length], "repeats": 1,
        }  # fmt: skip
        found = process(self.module, self.model, settings | dict(self.settings))["prefill"][str(length)]
        return length / statistics.median(found)


def run(
    *, quick: bool = False, kinds: tuple[str, ...] = KINDS, rounds: int | None = None, folder: Path = Path("runs/bench"),
    lengths: tuple[int, ...] | None = None, shape: ModelConfig = SHAPE, name: str = "qwen3-0.6b-random", peers: bool = True,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them, `prefill/<kind>/ctx<length>`; tokens a second.

    Args:
        shape, name: of the model, made if it is not in the folder. peers: whether to run them.
    """
    directory = make_model(folder, shape, name)
    files = make_gguf(directory, folder) if peers else {}
    rounds, lengths = rounds or (2 if quick else 3), lengths or (LENGTHS[:1] if quick else LENGTHS)
    absent = _absent(kinds) if peers else {}
    rows = []
    for kind in kinds:
        ours = Side("ours", "native_side", directory, {"kind": kind})
        for length in lengths:
            sides = [ours]
            if files:
                sides.append(_best_llama(kind, length, files))
            if kind == "bf16" and peers and find_spec("transformers"):
                sides.append(Side("transformers", "transformers_peer", directory, {"dtype": "bfloat16"}))
            rates: dict[str, list[float]] = {side.label: [] for side in sides}
            for number in range(rounds):
                log.info("%s, %d tokens, round %d of %d", kind, length, number + 1, rounds)
                for side in sides:
                    rates[side.label].append(side.rate(length))
            rows.append(
                compare(f"prefill/{kind}/ctx{length}", "prompt tokens a second", rates.pop("ours"), rates)
            )
    present("Reading prompts, tokens a second", rows, folder / "prefill", absent=absent)
    return rows


def _best_llama(kind: str, length: int, files: Mapping[str, Path]) -> Side:
    """The fastest of a look at each: format and flash attention first, then the size of its batches."""

    def side(name: str, flash: bool, ubatch: int) -> Side:
        label = f"llama.cpp {name}{', flash' if flash else ''}, ubatch {ubatch}"
        return Side(label, "llama_peer", files[name], {"flash": flash, "ubatch": ubatch})

    tried = {
        (name, flash, _PLAIN): side(name, flash, _PLAIN).rate(length)
        for name in PEERS[kind] for flash in (False, True)
    }  # fmt: skip
    name, flash, _ = max(tried, key=tried.__getitem__)
    for ubatch in _UBATCHES:
        if ubatch <= length:
            tried[name, flash, ubatch] = side(name, flash, ubatch).rate(length)
    best = side(*max(tried, key=tried.__getitem__))
    log.info("%s, %d tokens: %s is the fastest of %d", kind, length, best.label, len(tried))
    return best


def _absent(kinds: tuple[str, ...]) -> dict[str, str]:
    absent = {}
    if find_spec("llama_cpp") is None:
        absent["llama.cpp"] = "llama-cpp-python is not installed: make peers"
    if "bf16" in kinds and find_spec("transformers") is None:
        absent["transformers"] = "not installed"
    return absent


def main() -> None:
    command_line(__doc__, run, rounds="3, or 2 with --quick", kinds=(KINDS, KINDS))


if __name__ == "__main__":
    main()
