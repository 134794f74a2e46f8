"""Claim: in the same wall-clock time, on the same shards and at about the same size, our default (delta and latent
attention 3:1, Muon) reaches fewer bits per byte than `transformers`' Llama under its `Trainer` at the best of its grid;
and our loop moves at least 1.3 times the tokens with full attention, and at least as many with the hybrid.

The grid: eager and compiled, float32 and bfloat16 (the fastest goes on), then three learning rates by two weight decays.
Ours gets no grid: one setting, as shipped. Sides take turns, so that both meet the same machine.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts.shards import open_shards
from hanok.bench.stopped import stoppable
from hanok.models.config import ModelConfig
from hanok.reporting import log, table
from hanok.training.config import TrainConfig

_BLOCK, _TOKENS, _VOCABULARY = 1024, 8192, 4096
_HIDDEN, _LAYERS, _HEADS = 192, 4, 3
_LEARNING_RATES, _WEIGHT_DECAYS = (1e-3, 3e-3, 6e-3), (0.01, 0.1)
HYBRID = ("kda", "kda", "kda", "mla")


@dataclass(frozen=True, slots=True)
class _Side:
    """What one training run gave. `curve`: (seconds of training, bits per byte)."""

    parameters: int
    tokens_per_second: float
    seconds: float
    curve: list[tuple[float, float]]

    @property
    def result(self) -> float:
        return self.curve[-1][1]


def run(
    *, quick: bool = False, minutes: float = 5.0, shards: Path | None = None, work: Path | None = None
) -> list[dict[str, Any]]:
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; ratio > 1 means that ours is better.

    Args:
        quick: under two minutes: eager only, one learning rate, 15 seconds a run.
        minutes: wall-clock time of each training run; 0 compares tokens per second alone.
        shards: token shards to train on; by default the public Korean data, else the village.
        work: where shards and runs go.
    """
    from hanok.bench.train_data import benchmark_shards

    work = work or Path("runs") / "bench-train"
    work.mkdir(parents=True, exist_ok=True)
    data = shards or benchmark_shards(work, vocab_size=_VOCABULARY)
    minutes = 0.25 if quick else minutes
    setting, speeds = _fastest_setting(data, quick=quick)
    peer_speed = statistics.median(speeds)
    full, full_speeds = _speed(data, work, ("gqa",), quick=quick)
    hybrid, hybrid_speeds = _speed(data, work, HYBRID, quick=quick)
    peer = f"transformers Trainer, Llama, {setting}"
    rows = [
        _row(
            "tokens per second, full attention",
            "tokens/s",
            full,
            peer,
            peer_speed,
            full / peer_speed,
            full_speeds,
        ),
        _row(
            "tokens per second, hybrid",
            "tokens/s",
            hybrid,
            peer,
            peer_speed,
            hybrid / peer_speed,
            hybrid_speeds,
        ),
    ]
    if minutes:
        rows.append(_race(data, work, setting, minutes, peer, peer_speed, quick=quick))
    table("training against transformers", list(rows[0]), [list(row.values()) for row in rows])
    return rows


def _race(
    data: Path, work: Path, setting: str, minutes: float, peer: str, peer_speed: float, *, quick: bool
) -> dict[str, Any]:
    """Bits per byte after the same time: ours as shipped, the peer at the best of its grid."""
    ours = _ours(data, work / "hybrid", HYBRID, max_minutes=minutes)
    best, grid = _best_of_grid(data, setting, minutes, peer_speed, quick=quick)
    _print_curves(ours, best)
    return _row(
        f"{minutes:g} minutes, hybrid with Muon", "bits per byte", ours.result, f"{peer}, best of {len(grid)}",
        best.result, best.result / ours.result, [ours.result],
    )  # fmt: skip


@stoppable
def main(arguments: list[str] | None = None) -> None:
    """The command line of `benchmarks/train_vs_transformers.py`."""
    import argparse

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--json", action="store_true", help="print rows as JSON on standard output")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training run; 0: speed alone")
    parser.add_argument("--shards", type=Path, help="token shards to train on")
    given = parser.parse_args(arguments)
    rows = run(quick=given.quick, minutes=given.minutes, shards=given.shards)
    if given.json:
        print(json.dumps(rows, ensure_ascii=False))


def _fastest_setting(data: Path, *, quick: bool) -> tuple[str, list[float]]:
    """The peer's fastest combination of precision and compilation, and its tokens per second in several runs."""
    steps = 8 if quick else 16
    found: dict[str, _Side] = {}
    for precision in ("float32", "bfloat16"):
        for compiled in (False,) if quick else (False, True):
            name = f"{precision} {'compiled' if compiled else 'eager'}"
            found[name] = _peer(data, name, steps=steps, lr=1e-3, weight_decay=0.01, validations=0)
    table("the peer's speed", ("setting", "tokens/s"), [(n, s.tokens_per_second) for n, s in found.items()])
    best = max(found, key=lambda name: found[name].tokens_per_second)
    again = [] if quick else [_peer(data, best, steps=steps, lr=1e-3, weight_decay=0.01, validations=0)]
    return best, [found[best].tokens_per_second, *(side.tokens_per_second for side in again)]


def _speed(data: Path, work: Path, pattern: tuple[str, ...], *, quick: bool) -> tuple[float, list[float]]:
    """Our median tokens per second, over runs of a few steps."""
    runs = [
        _ours(data, work / "speed", pattern, max_steps=8 if quick else 16).tokens_per_second
        for _ in range(1 if quick else 3)
    ]
    return statistics.median(runs), runs


def _best_of_grid(
    data: Path, setting: str, minutes: float, speed: float, *, quick: bool
) -> tuple[_Side, dict[str, _Side]]:
    steps = max(10, int(minutes * 60 * speed / _TOKENS))
    grid: dict[str, _Side] = {}
    for lr in _LEARNING_RATES[1:2] if quick else _LEARNING_RATES:
        for weight_decay in _WEIGHT_DECAYS[:1] if quick else _WEIGHT_DECAYS:
            name = f"lr {lr:g}, weight decay {weight_decay:g}"
            grid[name] = _peer(data, setting, steps=steps, lr=lr, weight_decay=weight_decay, validations=4)
            log.info("%s: %.4f bits per byte in %.0f s", name, grid[name].result, grid[name].seconds)
    table(
        f"the peer's grid, {setting}, {steps} steps",
        ("setting", "bits per byte", "seconds", "tokens/s"),
        [(name, side.result, side.seconds, side.tokens_per_second) for name, side in grid.items()],
    )
    return min(grid.values(), key=lambda side: side.result), grid


def _ours(
    data: Path,
    out: Path,
    pattern: tuple[str, ...],
    *,
    max_steps: int | None = None,
    max_minutes: float | None = None,
) -> _Side:
    """One run of our loop in a process of its own, as for the peer."""
    shutil.rmtree(out, ignore_errors=True)
    options = {
        "shards": str(data),
        "out": str(out),
        "pattern": pattern,
        "max_steps": max_steps,
        "max_minutes": max_minutes,
    }
    code = "import sys, json; from hanok.bench.train import _train_ours; _train_ours(json.loads(sys.argv[1]))"
    _process([sys.executable, "-c", code, json.dumps(options)])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if "loss" in row][3:]
    summary = json.loads((out / "report.json").read_text(encoding="utf-8"))["summary"]
    name = "validation.text.bits_per_byte"
    return _Side(
        parameters=summary["parameters"],
        tokens_per_second=statistics.median(row["time.tokens_per_second"] for row in steps),
        seconds=rows[-1]["time.seconds"],
        curve=[(row["time.seconds"], row[name]) for row in rows if name in row],
    )


def _train_ours(options: dict[str, Any]) -> None:
    from hanok.training.run import train

    config = TrainConfig(
        max_steps=options["max_steps"], max_minutes=options["max_minutes"], max_seq_len=_BLOCK,
        tokens_per_step=_TOKENS, micro_batch_tokens=_TOKENS, seed=1,
    )  # fmt: skip
    model = ModelConfig(
        hidden_size=_HIDDEN, num_layers=_LAYERS, num_heads=_HEADS, pattern=tuple(options["pattern"]),
        qk_nope_head_dim=48, v_head_dim=64,
    )  # fmt: skip
    train(config, shards=Path(options["shards"]), out=Path(options["out"]), model=model)


def _peer(data: Path, setting: str, *, steps: int, lr: float, weight_decay: float, validations: int) -> _Side:
    precision, mode = setting.split()
    model = {
        "vocab_size": open_shards(data, verify=False).vocab_size, "hidden_size": _HIDDEN, "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS, "num_key_value_heads": _HEADS, "max_position_embeddings": _BLOCK,
        "intermediate_size": 576,
    }  # fmt: skip
    options = {
        "shards": str(data), "precision": precision, "compile": mode == "compiled", "lr": lr, "steps": steps,
        "weight_decay": weight_decay, "block": _BLOCK, "tokens": _TOKENS, "seed": 1, "model": model,
        "validations": validations, "validation_tokens": TrainConfig().validation_tokens,
    }  # fmt: skip
    printed = _process([sys.executable, "-m", "hanok.bench.train_peer", json.dumps(options)])
    values = json.loads(printed.splitlines()[-1])
    return _Side(
        parameters=values["parameters"],
        tokens_per_second=values["tokens_per_second"],
        seconds=values["training_seconds"],
        curve=[(seconds, value) for seconds, value in values["curve"]],
    )


def _process(command: list[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with code {done.returncode}")
    return done.stdout


def _print_curves(ours: _Side, peer: _Side) -> None:
    rows = [("ours", seconds, value) for seconds, value in ours.curve]
    rows += [("peer", seconds, value) for seconds, value in peer.curve]
    table(
        f"bits per byte; parameters: ours {ours.parameters:,}, peer {peer.parameters:,}",
        ("side", "seconds", "bits per byte"),
        rows,
    )


def _row(
    case: str, metric: str, ours: float, peer: str, theirs: float, ratio: float, measured: list[float]
) -> dict[str, Any]:
    spread = (max(measured) - min(measured)) / statistics.median(measured)
    return {
        "case": case, "metric": metric, "ours": round(ours, 4), "peer": peer, "theirs": round(theirs, 4),
        "ratio": round(ratio, 3), "runs": len(measured), "spread": round(spread, 3),
    }  # fmt: skip
