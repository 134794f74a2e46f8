"""Claim: at the shape of Qwen3-0.6B (random weights) a prompt of 512 or 4,096 tokens is read at least 3 times (8 bits), 2.5 times
(4 bits) and 1.4 times (bfloat16) as fast as by llama.cpp.

Only the logits behind the last token are computed, and nobody remembers an earlier prompt. llama.cpp may take the better of its
4-bit formats, flash attention on or off, and its best `n_ubatch`, found for each length before the rounds; in bfloat16
transformers runs too. Ours and the peers' processes take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from hanok.bench.decode import PEERS, SHAPE, make_gguf, make_model
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.sides import OURS, Side, fastest, take_turns
from hanok.bench.stopped import stoppable
from hanok.models.config import ModelConfig

LENGTHS = (512, 4096)
KINDS = ("int4", "int8", "bf16")
_UBATCHES = (128, 256, 1024, 2048)
_PLAIN = 512  # llama.cpp's own choice of n_ubatch


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
        for length in lengths:
            what = f"prefill/{kind}/ctx{length}"
            sides = [Side(OURS, "native_side", directory, {"kind": kind})]
            if files:
                sides.append(_best_llama(kind, length, files))
            if kind == "bf16" and peers and find_spec("transformers"):
                sides.append(Side("transformers", "transformers_peer", directory, {"dtype": "bfloat16"}))
            rates = take_turns(what, sides, rounds, lambda side, length=length: _rate(side, length))
            rows.append(compare(what, "prompt tokens a second", rates.pop(OURS), rates))
    present("Reading prompts, tokens a second", rows, folder / "prefill", absent=absent)
    return rows


def _rate(side: Side, length: int) -> float:
    """Tokens a second."""
    return length / statistics.median(side.measure(prompts=[length])["prefill"][str(length)])


def _best_llama(kind: str, length: int, files: Mapping[str, Path]) -> Side:
    """The fastest of a look at each: format and flash attention first, then the size of its batches."""

    def side(name: str, flash: bool, ubatch: int) -> Side:
        label = f"llama.cpp {name}{', flash' if flash else ''}, ubatch {ubatch}"
        return Side(label, "llama_peer", files[name], {"flash": flash, "ubatch": ubatch})

    what = f"{kind}, {length} tokens"
    plain = [(name, flash) for name in PEERS[kind] for flash in (False, True)]
    sides = [side(name, flash, _PLAIN) for name, flash in plain]
    best = fastest(what, sides, lambda one: _rate(one, length))
    name, flash = plain[sides.index(best)]
    sizes = [side(name, flash, ubatch) for ubatch in (_PLAIN, *_UBATCHES) if ubatch <= max(length, _PLAIN)]
    return fastest(what, sizes, lambda one: _rate(one, length))


def _absent(kinds: tuple[str, ...]) -> dict[str, str]:
    absent = {}
    if find_spec("llama_cpp") is None:
        absent["llama.cpp"] = "llama-cpp-python is not installed: make peers"
    if "bf16" in kinds and find_spec("transformers") is None:
        absent["transformers"] = "not installed"
    return absent


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="3, or 2 with --quick", kinds=(KINDS, KINDS))


if __name__ == "__main__":
    main()
