"""Which weights a pruned map loses: by size, or by size times the norm of the input (Wanda, arXiv 2306.11695).

Either a share of every row, or `drop` of every `of` neighbouring inputs; the counts are exact, also where scores are equal.

N outputs, K inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparsity:
    """Args: share: of weights that become 0. drop, of: so many of so many neighbours (2 of 4); then share is not read."""

    share: float = 0.5
    drop: int = 0
    of: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"share = {self.share}", remedy="it must lie in [0, 1)")
        if (self.drop or self.of) and not 0 < self.drop < self.of:
            raise ConfigError(f"{self.drop} of {self.of} weights", remedy="drop fewer than there are: 2 of 4")

    def check(self, inputs: int) -> None:
        """Raises ConfigError for rows that do not consist of whole groups."""
        if self.of and inputs % self.of:
            raise ConfigError(f"{inputs} inputs do not fill groups of {self.of}", remedy="prune by share")


def magnitude_scores(weight_NK: Tensor) -> Tensor:
    return weight_NK.abs()


def wanda_scores(weight_NK: Tensor, norm_K: Tensor) -> Tensor:
    """|W_ij| |X_j|: norm_K is the length of each input over the calibration rows (any common factor is free)."""
    return weight_NK.abs() * norm_K


def keep_mask(scores_NK: Tensor, sparsity: Sparsity) -> Tensor:
    """bool [N, K]: the best of each row, or of each group of neighbours. Raises ConfigError as `Sparsity.check`."""
    sparsity.check(scores_NK.shape[1])
    if sparsity.of:
        return _without_lowest(scores_NK.unflatten(1, (-1, sparsity.of)), sparsity.drop).flatten(1)
    return _without_lowest(scores_NK, int(sparsity.share * scores_NK.shape[1]))


def _without_lowest(scores: Tensor, count: int) -> Tensor:
    """False at the `count` lowest along the last axis."""
    lowest = scores.argsort(dim=-1, stable=True)[..., :count]
    return torch.ones_like(scores, dtype=torch.bool).scatter_(-1, lowest, False)
