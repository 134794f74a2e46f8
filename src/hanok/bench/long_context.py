"""Claim: at 1,048,576 tokens of context a 3:1 hybrid (delta and latent attention) decodes one stream at least 3 times as fast as
the same model with latent attention everywhere, and at least 5 times the tokens a second at an equal cache budget; one token more
costs at most 26 % of the bytes.

Small width, random weights; the cache is filled with noise instead of being read in, so that a million tokens cost seconds. All
three models (hybrid, all latent, all grouped-query) run on the native kernels, bfloat16, one process each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanok.bench.stopped import stoppable
from hanok.engine.blocks import BLOCK
from hanok.engine.coverage import block_bytes, state_bytes
from hanok.engine.native import NativeDecoder
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import log, table

PATTERNS = {"hybrid": ("kda", "kda", "kda", "mla"), "latent": ("mla",), "grouped": ("gqa",)}
CONTEXTS = (4_096, 16_384, 65_536, 262_144, 1_048_576)
_NOISE = 1 << 22


def shape(name: str, context: int) -> ModelConfig:
    rope = 1e6 if name == "grouped" else None
    return ModelConfig(
        vocab_size=4096, hidden_size=256, num_layers=8, pattern=PATTERNS[name], num_heads=4, num_kv_heads=2, head_dim=64,
        intermediate_size=704, max_context=context + BLOCK, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32,
        v_head_dim=64, rope_theta=rope,
    )  # fmt: skip


def run(
    *, quick: bool = False, folder: Path = Path("runs/bench"), contexts: tuple[int, ...] | None = None
) -> list[dict[str, Any]]:
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; writes `long-context.png` beside them."""
    contexts = contexts or (CONTEXTS[:3] if quick else CONTEXTS)
    settings = {"contexts": contexts, "steps": 5 if quick else 9, "threads": torch.get_num_threads()}
    found = {}
    for name in PATTERNS:
        log.info("%s", name)
        found[name] = _process(settings | {"model": name})
    most = str(contexts[-1])
    streams = equal_budget_streams(contexts[-1])
    settings |= {"contexts": contexts[-1:], "streams": streams, "model": "hybrid"}
    log.info("hybrid, %d streams in the cache of one stream of the latent model", streams)
    many = _process(settings)
    rows = []
    for peer in ("latent", "grouped"):
        for length in map(str, contexts):
            rows.append(_row(f"long/{peer}/ctx{length}/streams1", f"all {peer}", found, peer, length))
    ours = streams / statistics.median(many["seconds"][most])
    theirs = 1 / statistics.median(found["latent"]["seconds"][most])
    rows.append({
        "case": f"long/latent/ctx{most}/equal-cache", "metric": "tokens a second", "ours": round(ours, 2),
        "peer": "all latent, 1 stream", "theirs": round(theirs, 2), "ratio": round(ours / theirs, 2),
        "runs": settings["steps"], "spread": _spread(many["seconds"][most]), "streams": streams,
    })  # fmt: skip
    for peer in ("latent", "grouped"):
        mine, its = (found[name]["bytes_a_token"] for name in ("hybrid", peer))
        rows.append({
            "case": f"long/{peer}/bytes-a-token", "metric": "bytes", "ours": mine, "peer": f"all {peer}", "theirs": its,
            "ratio": round(its / mine, 2), "runs": 1, "spread": 0.0,
            "break_even": round(found["hybrid"]["state_bytes"] / (its - mine)),
        })  # fmt: skip
    table(
        "one stream, and as many as fit",
        ("case", "ours", "peer", "theirs", "ratio", "spread"),
        [(r["case"], r["ours"], r["peer"], r["theirs"], r["ratio"], r["spread"]) for r in rows],
    )
    for row in rows:
        if "break_even" in row:
            log.info(
                "%s: the constant state is paid back after %s tokens", row["case"], f"{row['break_even']:,}"
            )
    _plot(found, folder / "long-context.png")
    return rows


def equal_budget_streams(context: int) -> int:
    """How many sequences of the hybrid fit where one of the latent model does."""
    hybrid, latent = (shape(name, context) for name in ("hybrid", "latent"))
    blocks = -(-context // BLOCK) + 1
    return (block_bytes(latent) * blocks) // (block_bytes(hybrid) * blocks + state_bytes(hybrid))


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each step behind a full cache; settings: model, contexts, steps, threads, streams."""
    contexts, streams = settings["contexts"], settings.get("streams", 1)
    config = shape(settings["model"], max(contexts))
    each = -(-max(contexts) // BLOCK) + 1
    with torch.inference_mode():
        decoder = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
        model = NativeDecoder(
            decoder, kind="bf16", blocks=streams * each, threads=settings["threads"], slots=streams
        )
        noise = torch.randn(_NOISE, generator=torch.Generator().manual_seed(1)).bfloat16()
        for cache in model.caches:
            for part in cache.split(_NOISE):
                part.copy_(noise[: len(part)])
    order = model.pool.take(streams * each)
    tables = [order[number * each : (number + 1) * each] for number in range(streams)]
    seconds: dict[int, list[float]] = {}
    for length in contexts:
        seconds[length] = []
        for step in range(settings["steps"] + 1):  # the first is for the caches of the processor
            start = time.perf_counter()
            model.step([7 + step] * streams, [length - 1] * streams, range(streams), tables, range(streams))
            seconds[length].append(time.perf_counter() - start)
        seconds[length] = seconds[length][1:]
    return {
        "seconds": seconds, "bytes_a_token": block_bytes(config) // BLOCK, "state_bytes": state_bytes(config),
    }  # fmt: skip


def _process(settings: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "hanok.bench.long_context", "--side", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{settings['model']}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _row(case: str, peer: str, found: Mapping[str, Any], other: str, length: str) -> dict[str, Any]:
    mine, theirs = (found[name]["seconds"][length] for name in ("hybrid", other))
    ours, its = 1 / statistics.median(mine), 1 / statistics.median(theirs)
    return {
        "case": case, "metric": "tokens a second", "ours": round(ours, 1), "peer": peer, "theirs": round(its, 1),
        "ratio": round(ours / its, 2), "runs": len(mine), "spread": _spread(mine),
    }  # fmt: skip


def _spread(seconds: list[float]) -> float:
    return round((max(seconds) - min(seconds)) / statistics.median(seconds), 3)


def _plot(found: Mapping[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {
        "hybrid": "3 delta : 1 latent",
        "latent": "latent everywhere",
        "grouped": "grouped-query everywhere",
    }
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, label in names.items():
        seconds = found[name]["seconds"]
        contexts = [int(length) for length in seconds]
        speed.plot(
            contexts,
            [1e3 * statistics.median(times) for times in seconds.values()],
            marker="o",
            label=label,
        )
        memory.plot(
            contexts,
            [(found[name]["state_bytes"] + found[name]["bytes_a_token"] * c) / 1e6 for c in contexts],
            marker="o",
            label=label,
        )
    for axis, title in (
        (speed, "milliseconds a token, one stream"),
        (memory, "megabytes of cache and state"),
    ):
        axis.set(xscale="log", yscale="log", xlabel="tokens of context", title=title)
        axis.grid(alpha=0.3)
        axis.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contexts", type=int, nargs="+", help="tokens; default: 4,096 to 1,048,576")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(json.loads(options.side))))
        return
    contexts = tuple(sorted(options.contexts)) if options.contexts else None
    rows = run(quick=options.quick, folder=options.folder, contexts=contexts)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
