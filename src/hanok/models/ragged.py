"""The layout of a ragged batch, computed once and shared by all layers.

N tokens, B sequences, L padded length of a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hanok.models.attention import Scoring


class Pages(Protocol):
    """Where keys and values of a batch's sequences lie, if not in a row of the cache for each (`paged.py`)."""

    def write(self, cache: Tensor, new_Nx: Tensor) -> None: ...

    def attend(self, q_NHK: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Bucket:
    """Sequences of similar length as a padded rectangle: `slots` [n, L] are token indices (padding repeats token 0)."""

    slots_nL: Tensor
    tokens_T: Tensor  # the real tokens, in sequence order
    cells_T: Tensor  # where they lie in the flattened rectangle


class Ragged:
    """`cu_seqlens` int32 [B+1] with what layers need of it; `offsets_B` tokens already in each sequence's state.

    Args:
        bounds: `cu_seqlens` as numbers, where the caller has them: reading them from a GPU waits for it.
        pages: of the sequences' keys and values, if these lie in blocks.
    """

    def __init__(
        self, cu_seqlens: Tensor, offsets_B: Tensor | None = None, *, bounds: list[int] | None = None,
        pages: Pages | None = None,
    ) -> None:  # fmt: skip
        self.cu_seqlens, self.pages = cu_seqlens, pages
        self.bounds: list[int] = cu_seqlens.tolist() if bounds is None else bounds
        self.lengths = [end - start for start, end in pairwise(self.bounds)]
        self.offsets_B = offsets_B
        self._remembered: dict[Hashable, Any] = {}

    @property
    def device(self) -> torch.device:
        return self.cu_seqlens.device

    def remember(self, key: Hashable, make: Callable[[Ragged], Any]) -> Any:
        """What one layer computed from the layout alone, for the others."""
        if key not in self._remembered:
            self._remembered[key] = make(self)
        return self._remembered[key]

    @cached_property
    def one_each(self) -> bool:
        """Whether every sequence brings one token."""
        return all(length == 1 for length in self.lengths)

    @property
    def ends(self) -> Tensor:
        """Tokens of each sequence once this batch is in, int64 [B]."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return lengths if self.offsets_B is None else lengths + self.offsets_B

    @cached_property
    def sequence_N(self) -> Tensor:
        numbers = torch.arange(len(self.lengths), device=self.device)
        return torch.repeat_interleave(numbers, torch.tensor(self.lengths, device=self.device))

    @cached_property
    def positions_N(self) -> Tensor:
        positions = (
            torch.arange(self.bounds[-1], device=self.device) - self.cu_seqlens[:-1].long()[self.sequence_N]
        )
        return positions if self.offsets_B is None else positions + self.offsets_B[self.sequence_N]

    @cached_property
    def buckets(self) -> list[Bucket]:
        """At most a fifth of padding in a bucket, except among the very short ones."""
        order = sorted((b for b, n in enumerate(self.lengths) if n), key=lambda b: -self.lengths[b])
        groups: list[list[int]] = []
        for b in order:
            longest = self.lengths[groups[-1][0]] if groups else 0
            if groups and self.lengths[b] >= min(0.8 * longest, longest - 16):
                groups[-1].append(b)
            else:
                groups.append([b])
        return [self._bucket(group) for group in groups]

    def _bucket(self, members: list[int]) -> Bucket:
        width = self.lengths[members[0]]
        starts = torch.tensor([self.bounds[b] for b in members], device=self.device)
        lengths = torch.tensor([self.lengths[b] for b in members], device=self.device)
        column_L = torch.arange(width, device=self.device)
        real_nL = column_L < lengths[:, None]
        slots_nL = torch.where(real_nL, starts[:, None] + column_L, 0)
        cells_T = real_nL.flatten().nonzero().squeeze(1)
        return Bucket(slots_nL, slots_nL.flatten()[cells_T], cells_T)
