"""Claim: with another process busy on one of the cores, decoding keeps at least 60 % of its quiet throughput.

One stream at the shape of Qwen3-0.6B, random weights, 64 tokens of context; quiet and busy runs, ours and the peer's, take turns.
The rate is steps over their whole time, not a median, since what a busy core does is to make some steps very long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from hanok.bench.decode import PEERS, make_gguf, make_model, process
from hanok.bench.stopped import stoppable
from hanok.reporting import log, table

_CONTEXT = 64
_LOOP = "while True: pass"


def run(
    *,
    quick: bool = False,
    kinds: tuple[str, ...] = ("int4",),
    rounds: int | None = None,
    folder: Path = Path("runs/bench"),
) -> list[dict[str, Any]]:
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread, ...}: the share of the quiet rate that is kept."""
    directory = make_model(folder)
    files = make_gguf(directory, folder)
    rounds = rounds or (2 if quick else 5)
    settings = {
        "threads": torch.get_num_threads(), "contexts": [_CONTEXT], "steps": 48 if quick else 160, "prompts": [],
        "repeats": 1, "streams": [], "flash": True,
    }  # fmt: skip
    rows = []
    for kind in kinds:
        name = PEERS[kind][0]
        sides = {"ours": ("native_side", directory, settings | {"kind": kind})}
        if files:
            sides["theirs"] = ("llama_peer", files[name], settings)
        rates: dict[tuple[str, bool], list[float]] = {}
        for number in range(rounds):
            log.info("%s, round %d of %d", kind, number + 1, rounds)
            for label, side in sides.items():
                for busy in (False, True):
                    rates.setdefault((label, busy), []).append(_rate(side, busy))
        kept = {label: _kept(rates, label) for label in sides}
        theirs = kept.get("theirs", [float("nan")])
        value, peer = statistics.median(kept["ours"]), statistics.median(theirs)
        rows.append({
            "case": f"busy/{kind}/ctx{_CONTEXT}", "metric": "share of the quiet rate", "ours": round(value, 3),
            "peer": f"llama.cpp {name}" if files else "none", "theirs": round(peer, 3), "ratio": round(value / peer, 2),
            "runs": rounds, "spread": round(max(kept["ours"]) - min(kept["ours"]), 3),
            "quiet": round(statistics.median(rates["ours", False]), 1),
            "busy": round(statistics.median(rates["ours", True]), 1),
        })  # fmt: skip
    table(
        "one core taken by another process: tokens a second, and the share of the quiet rate",
        ("case", "quiet", "busy", "kept", "peer", "kept by it", "spread"),
        [(r["case"], r["quiet"], r["busy"], r["ours"], r["peer"], r["theirs"], r["spread"]) for r in rows],
    )
    return rows


def _rate(side: tuple[str, Path, Mapping[str, Any]], busy: bool) -> float:
    with _busy_core() if busy else nullcontext():
        times = process(*side)["decode"][str(_CONTEXT)]
    return len(times) / sum(times)


def _kept(rates: Mapping[tuple[str, bool], list[float]], label: str) -> list[float]:
    return [busy / quiet for quiet, busy in zip(rates[label, False], rates[label, True], strict=True)]


@contextmanager
def _busy_core() -> Iterator[None]:
    loop = subprocess.Popen([sys.executable, "-c", _LOOP], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=["int4"], choices=sorted(PEERS))
    parser.add_argument("--rounds", type=int, help="default: 5, or 2 with --quick")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    rows = run(quick=options.quick, kinds=tuple(options.kinds), rounds=options.rounds, folder=options.folder)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
