"""What token ids a model can read."""

from __future__ import annotations

from collections.abc import Sequence

from hanok.errors import ContextLengthError, InputError


def check_ids(ids: Sequence[int], *, what: str, vocabulary: int, context: int) -> None:
    """Raises InputError or ContextLengthError unless these are 1 to `context` ids below `vocabulary`."""
    if not ids:
        raise InputError(f"{what} is empty", remedy="give at least one token")
    if len(ids) > context:
        raise ContextLengthError(prompt=len(ids), limit=context)
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise InputError(
            f"{what} holds a token outside 0 to {vocabulary - 1}",
            remedy="encode it with this model's tokeniser",
        )
