"""Claim: without 30 % of its layers' parameters (channels of the feed-forwards) a model of Qwen3-0.6B's shape decodes at least
1.2 times as fast (random weights: speed does not ask what they are).

Both lie in one process and take turns token by token, so that whatever else the machine does meets both alike. Embedding and head
stay as they are; they are a quarter of what is read for a token.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from hanok.bench.decode import SHAPE, make_model
from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.stopped import stoppable
from hanok.compression.structured import channels_left
from hanok.engine.coverage import WIDTHS
from hanok.engine.native import BLOCK, NativeDecoder
from hanok.models.checkpoint import load_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

SHARE, KINDS = 0.3, ("int4", "int8", "bf16")
CONTEXTS, STEPS = (64, 512), 24
AIM = 1.2


def run(
    *, quick: bool = False, kinds: tuple[str, ...] = ("int4", "bf16"), rounds: int | None = None,
    folder: Path = Path("runs/bench"), shape: ModelConfig = SHAPE, name: str = "qwen3-0.6b-random",
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them, `shrunk/<kind>/ctx<length>`; tokens a second, the smaller model's as ours."""
    rounds, contexts = rounds or (2 if quick else 5), CONTEXTS[:1] if quick else CONTEXTS
    with torch.device("meta"):
        less = replace(shape, intermediate_size=channels_left(Decoder(shape), SHARE))
    directories = (make_model(folder, less, f"{name}-shrunk"), make_model(folder, shape, name))
    rows = []
    for kind in kinds:
        models = [_loaded(directory, kind, max(contexts) + STEPS) for directory in directories]
        for length in contexts:
            tables = [model.pool.take(-(-(length + STEPS) // BLOCK)) for model in models]
            for model, table in zip(models, tables, strict=True):
                model.step(_ids(0, length), list(range(length)), [0] * length, [table], [])
            rates: list[list[float]] = [[], []]
            for _ in range(rounds):
                times = _turns(models, tables, length)
                for found, seconds in zip(rates, times, strict=True):
                    found.append(1 / median(seconds))
            for model, table in zip(models, tables, strict=True):
                model.pool.give_back(table)
            row = compare(
                f"shrunk/{kind}/ctx{length}", "decode, tokens a second", rates[0], {"the original": rates[1]}
            )
            rows.append(row | {"weight_bytes": [model.weight_bytes for model in models], "aim": AIM})
    present("Without 30 % of the layers' parameters", rows, folder / "shrunk")
    return rows


def _loaded(directory: Path, kind: str, tokens: int) -> NativeDecoder:
    width, finer = WIDTHS[kind]
    with torch.inference_mode():
        return NativeDecoder(
            load_model(directory, dtype="stored"), kind=width, finer=finer, blocks=-(-tokens // BLOCK),
            threads=torch.get_num_threads(),
        )  # fmt: skip


def _turns(models: list[NativeDecoder], tables: list[list[int]], length: int) -> list[list[float]]:
    """Seconds of each step of each; who begins changes from step to step."""
    times: list[list[float]] = [[] for _ in models]
    for step in range(STEPS):
        for which in (0, 1) if step % 2 else (1, 0):
            start = time.perf_counter()
            models[which].step(_ids(length + step, 1), [length + step], [0], [tables[which]], [0])
            times[which].append(time.perf_counter() - start)
    return times


def _ids(start: int, count: int) -> list[int]:
    return [7 + place % 500 for place in range(start, start + count)]


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="5, or 2 with --quick", kinds=(KINDS, ("int4", "bf16")))


if __name__ == "__main__":
    main()
