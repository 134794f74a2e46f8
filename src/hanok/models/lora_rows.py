"""Adapters of single rows: several low-rank adapters in one ragged batch, each for the rows that ask for it (LoRA, `lora.py`).

M rows of one adapter, rounded up to a multiple of `ROW_MULTIPLE` by repeating one: matrix libraries sum few or odd rows in
another order, and a row's numbers should not depend on how many others have its adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from hanok.models.decoder import Decoder
from hanok.models.linear import Linear, LowRank, RowAdapter

ROW_MULTIPLE = 4
Lows = Mapping[str, LowRank]  # by the names of the model's maps


@contextmanager
def acting_on(model: Decoder, adapters: Sequence[Lows | None]) -> Iterator[None]:
    """Inside, each row that the model's maps are given has the adapter at its place, or none; other rows may not be given.

    Costs nothing where no row has one.
    """
    adapted = _by_map(adapters, model.embed_tokens.weight.device)
    linears: list[Linear] = []
    try:
        for where, added in adapted.items():
            linear = model.get_submodule(where)
            assert isinstance(linear, Linear)
            linear.on_rows = tuple(added)
            linears.append(linear)
        yield
    finally:
        for linear in linears:
            linear.on_rows = ()


def _by_map(adapters: Sequence[Lows | None], device: torch.device) -> dict[str, list[RowAdapter]]:
    different: dict[int, tuple[Lows, list[int]]] = {}
    for row, lows in enumerate(adapters):
        if lows is not None:
            different.setdefault(id(lows), (lows, []))[1].append(row)
    adapted: dict[str, list[RowAdapter]] = {}
    for lows, rows in different.values():
        rows_M = torch.tensor([*rows, *rows[:1] * (-len(rows) % ROW_MULTIPLE)], device=device)
        for where, low in lows.items():
            adapted.setdefault(where, []).append(RowAdapter(low, rows_M, len(rows)))
    return adapted
