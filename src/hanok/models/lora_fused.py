"""Adapters of families whose files join maps that we keep apart: Phi-3's qkv_proj, GPT-2's c_attn.

For parts W_1 .. W_n of one map, one below the other, with pairs (A_i [r_i, in], B_i [out_i, r_i]) and scales s_i,

    A = [A_1; ..; A_n],   B = diag(B_1 s_1/s, .., B_n s_n/s),   s = s_1

is one pair of rank r_1 + .. + r_n with the same product. The ranks of the parts stand in the file's metadata, so that it comes
apart again as it was; PEFT does not read them. Parts that share one A (an adapter that PEFT trained) stay of that rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hanok.errors import CheckpointError
from hanok.models.config import ModelConfig
from hanok.models.dora import WeightDecomposed
from hanok.models.families.family import Family, Fused, Transposed
from hanok.models.linear import LowRank

PARTS = "hanok.parts"  # in the metadata: their map -> ranks of its parts


@dataclass(frozen=True, slots=True)
class Pair:
    """Of one map in the files. ranks: of the parts that it is joined of; empty where there are none, or where they share.
    magnitude: of DoRA, one an output."""

    a: Tensor
    b: Tensor
    scale: float
    ranks: tuple[int, ...] = ()
    magnitude: Tensor | None = None

    def alpha(self, *, rslora: bool) -> float:
        """That PEFT makes this scale of."""
        rank = self.a.shape[0]
        return self.scale * (math.sqrt(rank) if rslora else rank)


def joined_pairs(
    lows: Mapping[str, LowRank], family: Family, config: ModelConfig, *, norms: Callable[[str], Tensor]
) -> dict[str, Pair]:
    """From our maps to theirs, by their names. norms: of the rows of one of our maps, which DoRA has where nothing is adapted."""
    pairs = {where: _pair(low) for where, low in lows.items()}
    for layout in family.layouts:
        if isinstance(layout, Fused):
            for prefix in _prefixes(pairs, layout):
                names = [f"{prefix}{ours}" for ours in layout.ours]
                parts = [pairs.pop(name, None) for name in names]
                joined = _join(parts, layout.rows(config))
                if any(part is not None and part.magnitude is not None for part in parts):
                    lengths = [
                        norms(name) if part is None or part.magnitude is None else part.magnitude
                        for name, part in zip(names, parts, strict=True)
                    ]
                    joined = replace(joined, magnitude=torch.cat(lengths))
                pairs[f"{prefix}{layout.theirs}"] = joined
    outgoing = family.outgoing({f"{where}.lora_A.weight": pair.a for where, pair in pairs.items()}, config)
    by_a = {id(pair.a): pair for pair in pairs.values()}
    return {name.removesuffix(".lora_A.weight"): by_a[id(a)] for name, a in outgoing.items()}


def _pair(low: LowRank) -> Pair:
    magnitude = low.lora_magnitude_vector.detach() if isinstance(low, WeightDecomposed) else None
    return Pair(low.lora_A.detach(), low.lora_B.detach(), low.scale, magnitude=magnitude)


def part_of(tensor: Tensor, ranks: tuple[int, ...], number: int, *, dim: int) -> Tensor:
    """The block of one part along the rank."""
    return tensor.split(list(ranks), dim=dim)[number]


def part_number(where: str, family: Family) -> int:
    """Which part of its joined map one of ours is."""
    for layout in family.layouts:
        if isinstance(layout, Fused):
            for number, ours in enumerate(layout.ours):
                if where.endswith(f".{ours}"):
                    return number
    raise CheckpointError(f"{where} is no part of a joined map", remedy="is it an adapter for another model?")


def read_parts(file: Path, metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Raises CheckpointError where somebody wrote something else there."""
    try:
        found = {name: tuple(ranks) for name, ranks in json.loads(metadata.get(PARTS, "{}")).items()}
        if not all(isinstance(n, int) and n >= 0 for ranks in found.values() for n in ranks):
            raise ValueError("ranks are numbers from 0")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: {PARTS} is not readable ({error})", remedy="restore the file"
        ) from error
    return found


def write_parts(pairs: Mapping[str, Pair]) -> dict[str, str]:
    ranks = {name: pair.ranks for name, pair in pairs.items() if pair.ranks}
    return {PARTS: json.dumps(ranks)} if ranks else {}


def is_turned(family: Family) -> bool:
    """Whether its matrices lie [in, out], which PEFT calls `fan_in_fan_out`."""
    return any(isinstance(layout, Transposed) for layout in family.layouts)


def _prefixes(pairs: Mapping[str, Pair], layout: Fused) -> Iterator[str]:
    found = {
        where.removesuffix(ours): None
        for where in pairs
        for ours in layout.ours
        if where.endswith(f".{ours}")
    }
    yield from found


def _join(parts: list[Pair | None], rows: list[int]) -> Pair:
    there = [part for part in parts if part is not None]
    first = there[0]
    if len(there) == len(parts) and all(
        torch.equal(part.a, first.a) and part.scale == first.scale for part in there
    ):
        return Pair(first.a, torch.cat([part.b for part in there]), first.scale)
    ranks = tuple(0 if part is None else part.a.shape[0] for part in parts)
    b = first.b.new_zeros(sum(rows), sum(ranks))
    row = column = 0
    for part, height, rank in zip(parts, rows, ranks, strict=True):
        if part is not None:
            b[row : row + height, column : column + rank] = part.b * (part.scale / first.scale)
        row, column = row + height, column + rank
    return Pair(torch.cat([part.a for part in there]), b, first.scale, ranks)
