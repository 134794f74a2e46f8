"""Claim: a hybrid of the size of Qwen3-0.6B (three layers of delta attention, one of latent attention; random weights) reads a
prompt of 512 or 4,096 tokens faster than its own layers in PyTorch, whose delta attention runs in native chunks.

Both read pieces of 512 tokens and give the logits behind the last one. PyTorch may take float32 or bfloat16, whichever is faster.
Both sides run in this process and take turns; the threads of one sleep while the other runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hanok.bench.decode import make_model
from hanok.bench.prefix import HYBRID
from hanok.bench.stopped import stoppable
from hanok.engine.blocks import BLOCK
from hanok.engine.native import NativeDecoder
from hanok.kernels.packed import KINDS, Kind
from hanok.models.checkpoint import load_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import log, table

PIECE = 512
LENGTHS = (512, 4096)
PEERS = {"PyTorch, float32": torch.float32, "PyTorch, bfloat16": torch.bfloat16}


def run(
    *, quick: bool = False, kinds: Sequence[Kind] = ("int4",), rounds: int | None = None, lengths: Sequence[int] | None = None,
    folder: Path = Path("runs/bench"), shape: ModelConfig = HYBRID, name: str = "hybrid-0.6b-random", peers: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; tokens a second, medians; spread of the rounds.

    Args:
        shape, name: of the model, made if it is not in the folder. peers: whether to run them.
    """
    directory = make_model(folder, shape, name)
    lengths = lengths or (LENGTHS[:1] if quick else LENGTHS)
    rounds = rounds or (1 if quick else 3)
    plain = load_model(directory).requires_grad_(False) if peers else None
    found = []
    for kind in kinds:
        model = NativeDecoder(
            load_model(directory, dtype="stored").requires_grad_(False), kind=kind, blocks=-(-max(lengths) // BLOCK),
            threads=torch.get_num_threads(), slots=1,
        )  # fmt: skip
        for length in lengths:
            log.info("%s, %d tokens", kind, length)
            ids = [37 * place * place % shape.vocab_size for place in range(length)]
            sides: dict[str, Callable[[], float]] = {"ours": partial(_native, model, ids)}
            if plain is not None:
                sides |= {label: partial(_plain, plain, ids, dtype) for label, dtype in PEERS.items()}
            times: dict[str, list[float]] = {label: [] for label in sides}
            for _ in range(rounds):
                for label, side in sides.items():
                    times[label].append(side())
            found.append(_row(f"prompt/{kind}/ctx{length}", length, times))
    table(
        "prompt tokens a second",
        ("case", "ours", "peer", "theirs", "ratio", "spread"),
        [(r["case"], r["ours"], r["peer"], r["theirs"], r["ratio"], r["spread"]) for r in found],
    )
    return found


def _native(model: NativeDecoder, ids: Sequence[int]) -> float:
    blocks = model.pool.take(-(-len(ids) // BLOCK))
    started = time.perf_counter()
    for start in range(0, len(ids), PIECE):
        places = range(start, min(len(ids), start + PIECE))
        wanted = [len(places) - 1] if places.stop == len(ids) else []
        model.step(ids[start : places.stop], places, [0] * len(places), [blocks], wanted)
    took = time.perf_counter() - started
    model.pool.give_back(blocks)
    return took


def _plain(decoder: Decoder, ids: Sequence[int], dtype: torch.dtype) -> float:
    decoder.set_compute_dtype(dtype)
    state = decoder.new_state(1)
    hidden_ND = torch.empty(0)
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(ids), PIECE):
            part = torch.tensor(ids[start : start + PIECE])
            hidden_ND, _ = decoder(part, torch.tensor([0, len(part)], dtype=torch.int32), state)
        decoder.logits(hidden_ND[-1:])
    return time.perf_counter() - started


def _row(case: str, length: int, times: dict[str, list[float]]) -> dict[str, Any]:
    rates = {label: [length / second for second in seconds] for label, seconds in times.items()}
    medians = {label: statistics.median(found) for label, found in rates.items()}
    ours = medians.pop("ours")
    peer = max(medians, key=medians.__getitem__, default="none")
    theirs = medians.get(peer)
    return {
        "case": case, "metric": "prompt tokens a second", "ours": round(ours, 1), "peer": peer,
        "theirs": None if theirs is None else round(theirs, 1), "ratio": None if theirs is None else round(ours / theirs, 2),
        "runs": len(rates["ours"]), "spread": round((max(rates["ours"]) - min(rates["ours"])) / ours, 3),
    }  # fmt: skip


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=["int4"], choices=KINDS)
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument("--lengths", nargs="+", type=int, help="default: 512 4096, or 512 with --quick")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    options = parser.parse_args()
    rows = run(
        quick=options.quick, kinds=options.kinds, rounds=options.rounds, lengths=options.lengths, folder=options.folder,
        peers=not options.alone,
    )  # fmt: skip
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
