"""Claim: a product with codes that have zero points takes at most 1.15 times the processor time of one without (a weight of four
bits is 5.0 bits in place of 4.5).

Matrices of one shape (random codes) take turns one by one on one thread, so that whatever else the machine does meets both alike:
one pair of them, which stays in the caches, and so many that each comes from memory, as in a step of a model.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from hanok.bench.outcome import Rows, command_line, compare, present
from hanok.bench.stopped import stoppable
from hanok.kernels.formats import GROUP, Quantised
from hanok.kernels.packed import PackedMatrix, Room, pack_quantised, product

OUTPUTS, INPUTS, ROWS = 3072, 1024, (1, 64)
FAR = 256 << 20  # bytes of each side, more than caches hold
BITS = {"int4": 4, "int8": 8}


def run(
    *, quick: bool = False, kinds: tuple[str, ...] = ("int4", "int8"), rounds: int | None = None,
    folder: Path = Path("runs/bench"), shape: tuple[int, int] = (OUTPUTS, INPUTS), far: int = FAR,
) -> Rows:  # fmt: skip
    """Rows as `outcome.compare` makes them, `<kind>/<rows>/<cached or memory>`: microseconds of processor time of a
    product with zero points as ours, without them as theirs."""
    rounds, rows = rounds or (7 if quick else 21), []
    for kind in kinds:
        plain = _codes(*shape, BITS[kind])
        shifted = replace(plain, zeros_NG=(torch.randn(plain.scales_NG.shape) * BITS[kind]).half())
        for place in ("cached", "memory"):
            count = 1 if place == "cached" else -(-far // pack_quantised(plain).nbytes)
            rooms = (Room(), Room())  # large pages, as those of an engine
            sides = [
                [room.take_in(pack_quantised(source)) for _ in range(count)]
                for room, source in zip(rooms, (shifted, plain), strict=True)
            ]
            for height in ROWS:
                repeats = max(1, (64 if height == 1 else 8) // count)
                times = _turns(sides, torch.randn(height, shape[1]), rounds, repeats)
                name = f"{kind}/{height}/{place}"
                weights = [side[0].nbytes for side in sides]
                row = compare(name, "microseconds", times[0], {"no zero points": times[1]}, smaller=True)
                rows.append(row | {"weight_bytes": weights, "bytes_ratio": weights[0] / weights[1]})
    present("Products of codes with zero points", rows, folder / "zero_points")
    return rows


def _codes(outputs: int, inputs: int, bits: int) -> Quantised:
    end = 1 << (bits - 1)
    q_NK = torch.randint(-end, end, (outputs, inputs)).to(torch.int8)
    return Quantised(q_NK, torch.rand(outputs, inputs // GROUP).half(), bits)


def _turns(
    sides: list[list[PackedMatrix]], x_MK: Tensor, rounds: int, repeats: int
) -> tuple[list[float], list[float]]:
    """Microseconds of a product of each side, the median of each round; who begins changes from product to product."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(repeats * len(sides[0])):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = time.process_time()
                product(sides[side][turn % len(sides[side])], x_MK)
                times[side].append(1e6 * (time.process_time() - start))
        for all_rounds, one in zip(found, times, strict=True):
            all_rounds.append(median(one))
    return found


@stoppable
def main() -> None:
    command_line(__doc__, run, rounds="21, or 7 with --quick", kinds=(tuple(BITS), ("int4", "int8")))


if __name__ == "__main__":
    main()
