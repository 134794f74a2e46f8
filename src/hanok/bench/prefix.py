"""Claim: the second turn of a conversation of 4,096 tokens gets its first token at least 20 times sooner when the engine still
has the first turn, at the shape of Qwen3-0.6B and for a hybrid of that size (three layers of delta attention, one of latent
attention), with the same answer.

Random weights. The second turn is the first one's prompt, its answer of 64 tokens and 40 new tokens. *Cold*: the engine has
forgotten everything; *warm*: it has just answered the first turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanok.bench.decode import SHAPE, make_model
from hanok.bench.lone import Answer, ask, load_native
from hanok.bench.stopped import stoppable
from hanok.engine.paged import PagedScheduler
from hanok.kernels.packed import KINDS, Kind
from hanok.models.config import ModelConfig
from hanok.reporting import log, table

HYBRID = ModelConfig(
    vocab_size=151_936, hidden_size=1024, num_layers=28, pattern=("kda", "kda", "kda", "mla"), num_heads=16, head_dim=128,
    kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, intermediate_size=3072, max_context=40_960,
    norm_eps=1e-6,
)  # fmt: skip
MODELS = {"attention": (SHAPE, "qwen3-0.6b-random"), "hybrid": (HYBRID, "hybrid-0.6b-random")}
ANSWER, NEW = 64, 40
SNAPSHOTS = 16


def run(
    *, quick: bool = False, models: Sequence[str] = tuple(MODELS), kind: Kind = "int4", rounds: int | None = None,
    length: int | None = None, folder: Path = Path("runs/bench"),
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; milliseconds to the first token, medians."""
    length = length or (1024 if quick else 4096)
    rounds = rounds or (1 if quick else 3)
    found = []
    for name in models:
        shape, directory = MODELS[name]
        model = load_native(
            make_model(folder, shape, directory), kind, tokens=length + 2 * ANSWER + NEW + 64,
            snapshots=SNAPSHOTS if "kda" in shape.layers else 0,
        )  # fmt: skip
        scheduler = PagedScheduler(model, max_running=1, vocabulary=shape.vocab_size)
        first = [1000 + 37 * place * place % 90_001 for place in range(length)]
        pairs = []
        for number in range(rounds):
            log.info("%s, round %d of %d", name, number + 1, rounds)
            scheduler.forget_past()
            turn = [*first, *ask(scheduler, first, ANSWER).ids, *range(7, 7 + NEW)]
            warm = ask(scheduler, turn, ANSWER)
            scheduler.forget_past()
            pairs.append((warm, ask(scheduler, turn, ANSWER)))
            assert pairs[-1][0].ids == pairs[-1][1].ids, "the warm answer is another"
        found.append(_row(f"second turn/{name}/{kind}/{length}", pairs))
    table(
        "milliseconds to the first token",
        ("case", "warm", "cold", "ratio", "spread"),
        [(r["case"], r["ours"], r["theirs"], r["ratio"], r["spread"]) for r in found],
    )
    return found


def _row(case: str, pairs: Sequence[tuple[Answer, Answer]]) -> dict[str, Any]:
    warm, cold = ([1e3 * pair[side].first for pair in pairs] for side in (0, 1))
    ours, theirs = statistics.median(warm), statistics.median(cold)
    return {
        "case": case, "metric": "milliseconds to the first token", "ours": round(ours, 1), "peer": "a cold cache",
        "theirs": round(theirs, 1), "ratio": round(theirs / ours, 1), "runs": len(pairs),
        "spread": round((max(warm) - min(warm)) / ours, 3), "cached": pairs[0][0].cached,
    }  # fmt: skip


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=sorted(MODELS))
    parser.add_argument("--kind", default="int4", choices=KINDS)
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument(
        "--length", type=int, help="tokens of the first turn; default: 4096, or 1024 with --quick"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    rows = run(
        quick=options.quick, models=options.models, kind=options.kind, rounds=options.rounds, length=options.length,
        folder=options.folder,
    )  # fmt: skip
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
