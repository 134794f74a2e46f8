"""Claim: our int8 and int4+ weights are no further from the model's own distribution than llama.cpp's Q8_0 and Q4_K_M, at no
more bits a weight (embedding and head counted).

The model is of the Llama family and trained, here on the spot or given: random weights say nothing about rounding. Both sides
read the same held-out tokens; the distance is KL(model in float32 || rounded model, as the engine runs it) in nats a token; what
rounding the activations costs is in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hanok.artefacts import create_artefact
from hanok.artefacts.shards import open_shards
from hanok.bench.decode import PEERS, make_gguf
from hanok.bench.llama_peer import bits_a_weight, peer_logits
from hanok.bench.stopped import stoppable
from hanok.bench.train_data import benchmark_shards
from hanok.engine.coverage import WIDTHS
from hanok.engine.native import BLOCK, NativeDecoder
from hanok.models.checkpoint import load_model, save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.reporting import progress, table
from hanok.training.config import TrainConfig
from hanok.training.run import train

LENGTH = 512  # tokens of a piece of held-out text
_SHAPE = ModelConfig(
    family="llama", hidden_size=256, num_layers=6, pattern=("gqa",), num_heads=4, num_kv_heads=2,
    intermediate_size=768, max_context=1024,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Distance:
    """Nats a token; share of tokens whose likeliest next token is another; perplexity over the model's own; bits a weight."""

    kl: float
    flipped: float
    perplexity: float
    bits: float


def run(
    *,
    quick: bool = False,
    folder: Path = Path("runs/bench/accuracy"),
    model: Path | None = None,
    shards: Path | None = None,
    pieces: int | None = None,
) -> list[dict[str, Any]]:
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread, ...}; ratio = theirs / ours.

    Args:
        model, shards: a trained model of the Llama or Qwen families, and shards with its tokeniser; default: made here.
        pieces: of held-out text, 512 tokens each.
    """
    model, shards = trained_model(model, shards, folder, quick=quick)
    stored = folder / f"{model.parent.name}-bf16"
    if not stored.is_dir():
        with create_artefact(stored, kind="model", step={"of": str(model)}) as draft:
            save_model(load_model(model).bfloat16(), draft.path, tokenizer_dir=model)
    texts = held_out(shards, pieces or (8 if quick else 48))
    decoder = load_model(stored).requires_grad_(False)
    with torch.inference_mode(), progress("the model itself", len(texts), "texts") as bar:
        own = []
        for ids in texts:
            own.append(_own(decoder, ids))
            bar.advance(1)
    files = make_gguf(stored, folder)
    rows = []
    for kind in WIDTHS:
        ours = measure(own, texts, native_logits(stored, kind), bits=_bits(stored, kind))
        theirs = {
            name: measure(
                own, texts, peer_logits(file, LENGTH, torch.get_num_threads()), bits=bits_a_weight(file)
            )
            for name, file in files.items()
            if name in PEERS[kind.removesuffix("+")]
        }
        rows += [_row(kind, ours, name, distance) for name, distance in theirs.items()] or [
            _row(kind, ours, "none", None)
        ]
    table(
        f"distance to the model itself, {sum(map(len, texts)):,} tokens of held-out text",
        ("case", "KL ours", "bits", "flipped", "ppl", "peer", "KL theirs", "bits", "flipped", "ppl", "ratio"),
        [(r["case"], r["ours"], r["bits"], r["flipped"], r["perplexity"], r["peer"], r["theirs"], r["peer_bits"],
          r["peer_flipped"], r["peer_perplexity"], r["ratio"]) for r in rows],
    )  # fmt: skip
    return rows


def trained_model(
    model: Path | None, shards: Path | None, folder: Path, *, quick: bool
) -> tuple[Path, Path]:  # fmt: skip
    """Those given, or both made in `folder`."""
    if model is not None and shards is not None:
        return model, shards
    shards = benchmark_shards(folder, vocab_size=4096)
    minutes = 1.0 if quick else 10.0
    config = TrainConfig(max_minutes=minutes, seed=1)
    return train(config, shards=shards, out=folder / f"run-{minutes:g}", model=_SHAPE).path, shards


def held_out(shards: Path, pieces: int) -> list[list[int]]:
    """Pieces of the test split's documents: the first of each, then the second of each, and so on."""
    split = open_shards(shards).splits["text-test"]
    starts = [(n, i) for i, length in enumerate(split.lengths) for n in range(int(length) // LENGTH)]
    return [
        split.document(index)[0][number * LENGTH : (number + 1) * LENGTH].astype(int).tolist()
        for number, index in sorted(starts)[:pieces]
    ]


def measure(
    own: list[Tensor], texts: list[list[int]], logits: Callable[[list[int]], Tensor], *, bits: float
) -> Distance:
    """`own`: float32 log-probabilities [LENGTH, V] of each text; `logits`: a function from ids to [LENGTH, V]."""
    kl, flipped, surprise, count = 0.0, 0, 0.0, 0
    for reference_NV, ids in zip(own, texts, strict=True):
        found_NV = logits(ids).log_softmax(-1)
        kl += float((reference_NV.exp() * (reference_NV - found_NV)).sum(dtype=torch.float64))
        flipped += int((reference_NV.argmax(-1) != found_NV.argmax(-1)).sum())
        target_N1 = torch.tensor(ids[1:])[:, None]
        surprise += float((reference_NV - found_NV)[:-1].gather(1, target_N1).sum(dtype=torch.float64))
        count += len(ids)
    return Distance(kl / count, flipped / count, float(np.exp(surprise / (count - len(texts)))), bits)


def native_logits(directory: Path, kind: str) -> Callable[[list[int]], Tensor]:
    decoder = load_model(directory, dtype="stored").requires_grad_(False)
    width, finer = WIDTHS[kind]
    model = NativeDecoder(
        decoder, kind=width, finer=finer, blocks=LENGTH // BLOCK, threads=torch.get_num_threads()
    )
    return lambda ids: torch.cat(list(model.read(ids, rows=128)))


def _own(decoder: Decoder, ids: list[int]) -> Tensor:
    hidden_ND, _ = decoder(torch.tensor(ids), torch.tensor([0, len(ids)], dtype=torch.int32))
    return decoder.logits(hidden_ND).log_softmax(-1)


def _bits(directory: Path, kind: str) -> float:
    """Of a weight of a matrix, the embedding once where it is the head too."""
    decoder = load_model(directory, dtype="stored").requires_grad_(False)
    width, finer = WIDTHS[kind]
    packed = NativeDecoder(decoder, kind=width, finer=finer, blocks=1, threads=1).weight_bytes
    return 8 * packed / sum(p.numel() for p in decoder.parameters() if p.dim() > 1)


def _row(kind: str, ours: Distance, peer: str, theirs: Distance | None) -> dict[str, Any]:
    def numbers(distance: Distance | None, prefix: str) -> dict[str, Any]:
        if distance is None:
            return {f"{prefix}{name}": None for name in ("bits", "flipped", "perplexity")}
        return {
            f"{prefix}bits": round(distance.bits, 2), f"{prefix}flipped": round(distance.flipped, 4),
            f"{prefix}perplexity": round(distance.perplexity, 4),
        }  # fmt: skip

    return {
        "case": f"accuracy/{kind}", "metric": "KL to the model, nats a token", "ours": round(ours.kl, 6),
        "peer": peer if theirs is None else f"llama.cpp {peer}", "theirs": None if theirs is None else round(theirs.kl, 6),
        "ratio": None if theirs is None else round(theirs.kl / max(ours.kl, 1e-12), 2), "runs": 1, "spread": 0,
        **numbers(ours, ""), **numbers(theirs, "peer_"),
    }  # fmt: skip


@stoppable
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/accuracy"))
    parser.add_argument("--model", type=Path, help="a trained model directory; with --shards")
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--pieces", type=int, help=f"of held-out text, {LENGTH} tokens each")
    options = parser.parse_args()
    rows = run(
        quick=options.quick, folder=options.folder, model=options.model, shards=options.shards, pieces=options.pieces
    )  # fmt: skip
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
