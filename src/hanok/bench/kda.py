"""Claim: our chunked delta attention, forward and backward, takes at most 2.5 times the time of softmax attention of the same
width at 2,048 tokens (8 heads of 128, float32), and less from 8,192 on; it is faster than every other form of delta attention
on a CPU.

Peers: PyTorch's causal `scaled_dot_product_attention`, fla's naive recurrence and naive chunks, the chunks that transformers
falls back to. Each takes turns with ours in one run, so that all meet the same machine. A peer is left out from the length on at
which it would take longer than `_PATIENCE` seconds or more memory than `_ROOM` bytes; the log says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hanok.bench.stopped import stoppable
from hanok.kernels.kda import chunk_kda
from hanok.reporting import log, table

HEADS, WIDTH = 8, 128
LENGTHS = (512, 2048, 8192, 16_384, 32_768, 65_536)
_PATIENCE = 60.0
_ROOM = 12e9
Inputs = tuple[Tensor, ...]


@dataclass(slots=True)
class _Form:
    """run: forward of q, k, v, g [1, T, H, K], beta [1, T, H]. bytes_per_token: kept for the backward pass, roughly."""

    name: str
    run: Callable[..., Tensor]
    bytes_per_token: float = 0.0
    seconds: dict[int, list[tuple[float, float]]] = field(default_factory=dict)


def run(*, quick: bool = False, lengths: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    """Rows {case, metric, ours, peer, theirs, ratio, runs, spread}; ratio > 1 means that ours is faster."""
    lengths = lengths or (LENGTHS[:2] if quick else LENGTHS)
    patience = _PATIENCE / 6 if quick else _PATIENCE
    forms = [_Form("hanok chunks (native)", _ours), _Form("softmax attention (SDPA)", _sdpa), *_other_forms()]
    for length in lengths:
        inputs = _inputs(length)
        for repeat in range(3 if length <= 8192 and not quick else 2):
            for form in forms:
                if repeat and length not in form.seconds:
                    continue
                if not repeat and not _affordable(form, length, patience):
                    log.info("%s is left out at %d tokens", form.name, length)
                    continue
                form.seconds.setdefault(length, []).append(_time(form.run, inputs))
    rows = []
    for length in lengths:
        ours = forms[0].seconds[length]
        for form in forms[1:]:
            if length in form.seconds:
                rows.append(_row(length, ours, form.name, form.seconds[length]))
    table(
        f"delta attention, {HEADS} heads of {WIDTH}, float32",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )
    return rows


@stoppable
def main(arguments: list[str] | None = None) -> None:
    """The command line of `benchmarks/kda.py`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--json", action="store_true", help="print rows as JSON on standard output")
    parser.add_argument("--lengths", type=int, nargs="*", help="tokens")
    given = parser.parse_args(arguments)
    rows = run(quick=given.quick, lengths=tuple(given.lengths) if given.lengths else None)
    if given.json:
        print(json.dumps(rows, ensure_ascii=False))


def _inputs(length: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q, k = (torch.nn.functional.normalize(draw(1, length, HEADS, WIDTH), dim=-1) for _ in range(2))
    g = torch.nn.functional.logsigmoid(draw(1, length, HEADS, WIDTH)) / 4
    return q, k, draw(1, length, HEADS, WIDTH), g, draw(1, length, HEADS).sigmoid()


def _ours(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    bounds = torch.tensor([0, q.shape[1]], dtype=torch.int32)
    return chunk_kda(q[0], k[0], v[0], g[0], beta[0], cu_seqlens=bounds)[0]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _other_forms() -> list[_Form]:
    """Those that are installed; the table has only these."""
    forms = []
    try:
        naive = _fla_naive()
        state = 4 * HEADS * WIDTH * WIDTH
        forms += [
            _Form("fla naive recurrence", lambda *x: naive.naive_recurrent_kda(*x)[0], 4.0 * state),
            _Form("fla naive chunks", lambda *x: naive.naive_chunk_kda(*x)[0], 40.0 * 4 * HEADS * WIDTH),
        ]
    except ImportError as error:
        log.warning("fla is not installed (%s): its naive forms are left out", error)
    try:
        sys.modules.setdefault("fla", None)  # type: ignore[arg-type]  # its GPU kernels would be taken where it is importable
        kimi = importlib.import_module("transformers.models.kimi_linear.modeling_kimi_linear")
        forms.append(
            _Form(
                "transformers' chunks",
                _transformers(kimi.chunk_kimi_delta_attention),
                40.0 * 4 * HEADS * WIDTH,
            )
        )
    except (ImportError, AttributeError) as error:
        log.warning("transformers has no delta attention here (%s): it is left out", error)
    return forms


def _fla_naive() -> Any:
    """By its file: importing the package wants a GPU."""
    spec = importlib.util.find_spec("fla")
    for folder in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        file = Path(folder) / "ops" / "kda" / "naive.py"
        if file.is_file():
            found = importlib.util.spec_from_file_location("fla_naive_kda", file)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return module
    raise ImportError("no fla-core")


def _transformers(chunks: Callable[..., Any]) -> Callable[..., Tensor]:
    def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        return chunks(q, k, v, g, beta)[0]

    return forward


def _time(forward: Callable[..., Tensor], inputs: Inputs) -> tuple[float, float]:
    """Seconds of the forward pass (with what the backward pass needs) and of the backward pass."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    start = time.perf_counter()
    out = forward(*leaves)
    middle = time.perf_counter()
    out.backward(torch.ones_like(out))
    return middle - start, time.perf_counter() - middle


def _affordable(form: _Form, length: int, patience: float) -> bool:
    if form.bytes_per_token * length > _ROOM:
        return False
    if not form.seconds:
        return True
    longest = max(form.seconds)
    if longest > length:
        return True
    seen = statistics.median(sum(pair) for pair in form.seconds[longest])
    growth = length / longest
    return seen * (growth**2 if "softmax" in form.name else growth) <= patience


def _row(
    length: int, ours: list[tuple[float, float]], peer: str, theirs: list[tuple[float, float]]
) -> dict[str, Any]:
    mine, other = [sum(pair) for pair in ours], [sum(pair) for pair in theirs]
    ratio = statistics.median(other) / statistics.median(mine)
    return {
        "case": f"{length} tokens", "metric": "ms, forward + backward", "ours": round(1e3 * statistics.median(mine), 1),
        "peer": peer, "theirs": round(1e3 * statistics.median(other), 1), "ratio": round(ratio, 2), "runs": len(mine),
        "spread": f"{1e3 * min(mine):.0f}-{1e3 * max(mine):.0f} / {1e3 * min(other):.0f}-{1e3 * max(other):.0f}",
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
