"""Tokeniser and chat template at run time: `hanok.tokens.Tokenizer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanok.tokens.tokenizer import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    """`from hanok.tokens import Tokenizer` imports the tokenizers library only then."""
    if name == "Tokenizer":
        from hanok.tokens.tokenizer import Tokenizer

        return Tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
