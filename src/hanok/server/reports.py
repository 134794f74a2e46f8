"""What is told of tokens beside their text, let go with the text that they made: what the guard hid, they do not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hanok.server.guarded import Guarded, Reader

T = TypeVar("T")


class Reports(Generic[T]):
    """Of one answer. Args: hidden: what stands for the report of a token that is not to be shown."""

    def __init__(self, hidden: Callable[[T], T]) -> None:
        self._hidden = hidden
        self._waiting: list[T] = []

    def hide(self, reports: Sequence[T]) -> list[T]:
        """In place of them."""
        return [self._hidden(one) for one in reports]

    def push(self, reports: Sequence[T], fates: Sequence[bool] | None) -> list[T]:
        """Those that may go out now. Args: reports: of new tokens. fates: as `fates_of` gives them."""
        if fates is None:
            return list(reports)
        self._waiting += reports
        told = [one if shown else self._hidden(one) for one, shown in zip(self._waiting, fates, strict=False)]
        del self._waiting[: len(told)]
        return told


def fates_of(answer: Reader) -> list[bool] | None:
    """Of the next tokens whether they may be shown; None: all, at once."""
    return answer.fates() if isinstance(answer, Guarded) else None
