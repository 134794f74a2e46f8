"""Decoding heads at work: temperature and top-p for the next token of each answer that did not set its own.

A row's two numbers must not depend on the rows beside it: where the native kernels run the model, they compute each row
alone; over PyTorch layers rows come in multiples of four, as everything there (`batch.py`).

B rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanok.engine.generation import Generation
from hanok.kernels.laws import HeadWeights, decoding_laws
from hanok.models.decoding import COLDEST, DecodingHeads
from hanok.models.lora_rows import ROW_MULTIPLE


class LearnedLaws:
    """Args: heads: the model's. fast: by the native kernels; `weights` are as these take them, then."""

    def __init__(self, heads: DecodingHeads, *, fast: bool) -> None:
        self._heads = heads
        self.weights = _native_weights(heads) if fast else None

    def assign(self, learned: Sequence[tuple[Generation, int]], hidden_BD: Tensor, logits_BV: Tensor) -> None:
        """Set the law of the next token of answers that want one. Args: learned: they, with their rows in both tensors."""
        rows = [row for _, row in learned]
        laws = (
            self._plain_laws(hidden_BD, logits_BV, rows)
            if self.weights is None
            else decoding_laws(self.weights, hidden_BD, logits_BV, rows)
        )
        for (generation, _), law in zip(learned, laws, strict=True):
            temperature, top_p = law
            sound = temperature == temperature and top_p == top_p
            scaled = max(temperature * generation.request.params.temperature_scale, COLDEST)
            generation.law = (
                (scaled, top_p) if sound else None
            )  # else the logits are no numbers, and the request fails

    def _plain_laws(self, hidden_BD: Tensor, logits_BV: Tensor, rows: list[int]) -> list[tuple[float, float]]:
        padded = torch.tensor([*rows, *rows[:1] * (-len(rows) % ROW_MULTIPLE)], device=hidden_BD.device)
        laws = self._heads.laws(hidden_BD[padded], logits_BV[padded])
        temperatures, top_ps = (law_R[: len(rows)].tolist() for law_R in laws)
        return list(zip(temperatures, top_ps, strict=True))


def _native_weights(heads: DecodingHeads) -> HeadWeights:
    return HeadWeights(
        [
            heads.get_parameter(f"{head}.mlp.{layer}").detach()
            for head in ("temp_head", "top_p_head")
            for layer in ("0.weight", "0.bias", "2.weight", "2.bias")
        ]
    )
