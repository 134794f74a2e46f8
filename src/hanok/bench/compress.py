"""Claim: at no more bits a weight than a peer's model, ours from `hanok compress --target` is no further from the original.

One trained model of the Llama family, rounded by each peer's own quantiser (`compress_peers.py`): llama.cpp's Q4_0 and Q4_K_M,
and where they are installed HQQ, torchao, optimum-quanto and gptqmodel. For
each peer ours is made with its bits as the target, embedding and head counted, for several seeds of calibration windows, and
measured as the engine runs it. The distance is KL(model in float32 || rounded model) in nats a token on held-out text.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hanok.artefacts import create_artefact, open_artefact, write_json
from hanok.bench.accuracy import LENGTH, Distance, held_out, measure, trained_model
from hanok.bench.compress_peers import Logits, logits_of, peers
from hanok.bench.outcome import tell_steps
from hanok.bench.stopped import stoppable
from hanok.compression.compress import compress
from hanok.compression.search import search
from hanok.compression.settings import CompressConfig, Method
from hanok.engine.blocks import BLOCK
from hanok.engine.native import NativeDecoder
from hanok.models.checkpoint import load_head_bits, load_model, save_model
from hanok.reporting import log, table


def run(
    *, quick: bool = False, folder: Path = Path("runs/bench/compress"), model: Path | None = None,
    shards: Path | None = None, pieces: int | None = None, seeds: int | None = None,
    methods: tuple[Method, ...] = ("gptq", "awq"), samples: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread, bits, peer_bits}; ratio = theirs / ours, medians over seeds.

    Args:
        model, shards: a trained model of the Llama or Qwen families, and shards with its tokeniser; default: made here.
        pieces: of held-out text, 512 tokens each. methods: tried for ours. samples: windows of text that is calibrated on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, shards = trained_model(model, shards, folder, quick=quick)
    stored = folder / f"{model.parent.name}-bf16"
    if not stored.is_dir():
        with create_artefact(stored, kind="model", step={"of": str(model)}) as draft:
            save_model(load_model(model).bfloat16(), draft.path, tokenizer_dir=model)
    texts = held_out(shards, pieces or (8 if quick else 48))
    decoder = load_model(stored).requires_grad_(False)
    with torch.inference_mode():
        own = [logits_of(decoder)(ids).log_softmax(-1) for ids in texts]
    config = CompressConfig(
        samples=samples or (32 if quick else 128), length=LENGTH, held_out=4, layer_windows=2
    )
    numbers, rows = range(1, (seeds or (1 if quick else 3)) + 1), []
    for name, bits, several in peers(stored, shards, folder, config, numbers):
        with torch.inference_mode():
            theirs = [measure(own, texts, logits, bits=bits) for logits in several]
        if bits < 4.5:
            log.warning("%s has %.2f bits a weight, fewer than ours have at least", name, bits)
            continue
        ours = []
        for seed in numbers:
            out = folder / f"ours-{bits:.3f}-{seed}"
            made = _made(methods, replace(config, seed=seed), bits, stored, shards, out)
            run_by, held = _engine(made)
            with torch.inference_mode():
                ours.append(measure(own, texts, run_by, bits=held))
        rows.append(row := _row(name, ours, theirs))
        log.info(
            "%s: KL %g at %g bits; ours %g at %g",
            name,
            row["theirs"],
            row["peer_bits"],
            row["ours"],
            row["bits"],
        )
    table(
        f"KL to the original, {sum(map(len, texts)):,} tokens of held-out text",
        ("peer", "theirs", "bits", "ours", "bits", "ratio", "perplexity theirs", "ours"),
        [(r["peer"], r["theirs"], r["peer_bits"], r["ours"], r["bits"], r["ratio"], r["peer_perplexity"], r["perplexity"])
         for r in rows],
    )  # fmt: skip
    return rows


def _made(
    methods: tuple[Method, ...], config: CompressConfig, bits: float, model: Path, shards: Path, out: Path
) -> Path:
    """By the plan that `hanok compress --target` finds with the first seed; what an earlier run made in the same way stays."""
    file = out.with_name(f"plan-{bits:.3f}.json")
    found = _plan(methods, replace(config, seed=1), bits, model, shards, file)
    settings = replace(config, bits=found["bits"], head_bits=found["head_bits"], layer_windows=0)
    wanted = {"method": found["method"], "widths": found["widths"], **asdict(settings)}
    if out.is_dir():
        there = open_artefact(out)
        same = all(there.step["compress"].get(name) == value for name, value in wanted.items())
        if not same or there.parents.get("source") != open_artefact(model).hash:
            shutil.rmtree(out)
    if not out.is_dir():
        compress(found["method"], settings, model=model, data=shards, out=out, widths=found["widths"])
    return out


def _plan(
    methods: tuple[Method, ...], config: CompressConfig, bits: float, model: Path, shards: Path, file: Path
) -> dict[str, Any]:
    """{method, bits, head_bits, widths}: kept beside the models, as it takes longer than making one of them."""
    job = {"model": open_artefact(model).hash, "methods": list(methods), "samples": config.samples}
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if kept.get("job") != job:
        found = search(methods, config, bits, model=model, data=shards, out=file.with_suffix(""))
        kept = {
            "job": job, "method": found.method, "bits": found.config.bits, "head_bits": found.config.head_bits,
            "widths": dict(found.widths),
        }  # fmt: skip
        write_json(file, kept)
    return kept


def _engine(directory: Path) -> tuple[Logits, float]:
    """As `--weights auto` runs a directory with codes of four bits; and bits a weight of a matrix."""
    decoder = load_model(directory, dtype="stored").requires_grad_(False)
    weights = sum(p.numel() for p in decoder.parameters() if p.dim() > 1)
    native = NativeDecoder(
        decoder, kind="int4", blocks=LENGTH // BLOCK, threads=torch.get_num_threads(),
        ends="int8" if load_head_bits(directory) == 8 else None,
    )  # fmt: skip
    return lambda ids: torch.cat(list(native.read(ids, rows=128))), 8 * native.weight_bytes / weights


def _row(peer: str, ours: list[Distance], theirs: list[Distance]) -> dict[str, Any]:
    kls = [one.kl for one in ours]
    middle, peers_own = median(kls), median(one.kl for one in theirs)
    return {
        "case": f"compress/{peer}", "metric": "KL to the original, nats a token", "ours": round(middle, 6), "peer": peer,
        "theirs": round(peers_own, 6), "ratio": round(peers_own / max(middle, 1e-12), 3), "runs": len(ours),
        "spread": round(max(kls) - min(kls), 6), "bits": round(max(one.bits for one in ours), 3),
        "peer_bits": round(theirs[0].bits, 3), "perplexity": round(median(one.perplexity for one in ours), 5),
        "peer_perplexity": round(median(one.perplexity for one in theirs), 5),
    }  # fmt: skip


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/compress"))
    parser.add_argument("--model", type=Path, help="a trained model directory; with --shards")
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--pieces", type=int, help=f"of held-out text, {LENGTH} tokens each")
    parser.add_argument("--seeds", type=int, help="of calibration windows")
    parser.add_argument("--samples", type=int, help="calibration windows; default: 128, or 32 with --quick")
    parser.add_argument(
        "--methods", nargs="+", choices=("rtn", "hqq", "gptq", "awq"), default=["gptq", "awq"]
    )
    options = parser.parse_args()
    tell_steps()
    rows = run(
        quick=options.quick, folder=options.folder, model=options.model, shards=options.shards, pieces=options.pieces,
        seeds=options.seeds, samples=options.samples, methods=tuple(options.methods),
    )  # fmt: skip
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
