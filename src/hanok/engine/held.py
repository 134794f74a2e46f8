"""What the threads of a native model read: packed weights and tables, held as long as the model is, and made anew in place when
the decoder's weights change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hanok.engine.arrange import bias_of, expert_rows, image, kind_of, stacked
from hanok.engine.images import Images
from hanok.kernels.formats import GROUP, Quantised
from hanok.kernels.native import address
from hanok.kernels.packed import Kind, PackedMatrix, Room, RowsInPlace, pack_stacked
from hanok.models.linear import Linear


class Held:
    """Args: kind: of maps that ask for none. images: packed weights of an earlier start."""

    def __init__(self, kind: Kind, images: Images | None) -> None:
        self._kind: Kind = kind
        self._images, self._room = images, Room()
        self._items: list[Any] = []
        self._refills: list[Callable[[], object]] = []

    @property
    def matrices(self) -> list[PackedMatrix]:
        return [item for item in self._items if isinstance(item, PackedMatrix)]

    def refill(self) -> None:
        """Take the decoder's weights anew."""
        for refill in self._refills:
            refill()

    def joined(self, *maps: Linear, kind: Kind | None = None) -> PackedMatrix:
        bias = None
        if any(one.bias is not None for one in maps):
            bias = lambda: torch.cat([bias_of(one) for one in maps])  # noqa: E731
        chosen = kind_of([one.weight for one in maps], kind or self._kind)
        return self.pack(
            lambda group: stacked([one.weight for one in maps], chosen, group), bias=bias, kind=chosen
        )

    def expert_maps(
        self, stack: Callable[[], Tensor], change: Callable[[Tensor], Tensor], *, bias: Callable[[int], Tensor] | None
    ) -> PackedMatrix:  # fmt: skip
        """Args: stack: [E, N, K]. change: what is done to the rows of each expert. bias: of an expert, its rows changed."""
        kind = kind_of([stack()], self._kind)

        @torch.no_grad()
        def make(group: int) -> PackedMatrix:
            rows = expert_rows(stack(), kind, change, group)

            def packed(expert: int) -> PackedMatrix:
                return image(rows(expert), kind, None if bias is None else bias(expert), group)

            return pack_stacked(packed, stack().shape[0])

        return self._made(make)

    def pack(
        self, weight: Callable[[int], Tensor | Quantised | RowsInPlace], *, bias: Callable[[], Tensor] | None = None,
        kind: Kind | None = None,
    ) -> PackedMatrix:  # fmt: skip
        """Args: weight: given the inputs that share a scale where it rounds numbers beside codes."""
        chosen = kind or self._kind

        def make(group: int) -> PackedMatrix:
            return image(weight(group), chosen, None if bias is None else bias().detach(), group)

        return self._made(make)

    def _made(self, make: Callable[[int], PackedMatrix]) -> PackedMatrix:
        """Codes of a file keep their groups; what is rounded in their place later has the same ones."""
        matrix = None if self._images is None else self._images.take(self._room)
        if matrix is None:
            matrix = self._room.take_in(make(GROUP))
            if self._images is not None:
                self._images.keep(matrix)
        self._refills.append(lambda: matrix.take_over(make(matrix.group)))
        return self.keep(matrix)

    def table(self, numbers: Callable[[], Tensor]) -> int:
        """Numbers as they are, float32."""
        held = self.keep(numbers().detach().float().clone().contiguous())
        self._refills.append(lambda: held.copy_(numbers().detach()))
        return address(held)

    def keep(self, item: Any) -> Any:
        self._items.append(item)
        return item
