"""Decoding heads at work: temperature and top-p for the next token of each answer that did not set its own.

A row's two numbers must not depend on the rows beside it: where the native kernels run the model each row is computed
alone; over PyTorch layers rows come in multiples of four, as everything there (`batch.py`).

B rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.engine.batch import ROW_MULTIPLE
from hanok.engine.generation import Generation
from hanok.models.decoding import DecodingHeads


class LearnedLaws:
    """Args: heads: the model's. alone: one row at a time."""

    def __init__(self, heads: DecodingHeads, *, alone: bool) -> None:
        self._heads, self._alone = heads, alone

    def wanted(self, generations: Sequence[Generation]) -> bool:
        return any(generation.learned for generation in generations)

    def assign(self, generations: Sequence[Generation], hidden_BD: Tensor, logits_BV: Tensor) -> None:
        """Set the law of the next token of those that want one; rows in the order of `generations`."""
        rows = [b for b, generation in enumerate(generations) if generation.learned]
        for group in [[row] for row in rows] if self._alone else [rows]:
            if not group:
                continue
            spare = 0 if self._alone else -len(group) % ROW_MULTIPLE
            padded = torch.tensor([*group, *group[:1] * spare])
            temperature_B, top_p_B = self._heads.laws(hidden_BD[padded], logits_BV[padded])
            for row, *law in zip(group, temperature_B.tolist(), top_p_B.tolist(), strict=False):
                generations[row].law = (law[0], law[1])
