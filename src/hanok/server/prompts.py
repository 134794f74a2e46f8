"""Prompts as the API takes them, text or ids, to ids of a model's tokeniser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Field, Tag

from hanok.errors import ContextLengthError
from hanok.server.errors import CONTENT_BLOCKED, ApiError
from hanok.tokens.tokenizer import Tokenizer

MOST_PROMPTS = 256  # in one request


def _refuse_bools(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a token is a number")
    return value


TokenId = Annotated[int, BeforeValidator(_refuse_bools), Field(strict=True, ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


def _kind(value: object) -> str:
    if not isinstance(value, list):
        return "text"
    if not value or isinstance(value[0], str):
        return "texts"
    return "lists" if isinstance(value[0], list) else "ids"


Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS), Tag("texts")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS), Tag("lists")],
    Discriminator(_kind),
]
"""One text, one list of ids, several texts, or several lists of ids."""


def prompt_ids(tokenizer: Tokenizer, prompts: Prompts, *, special: bool = True) -> list[list[int]]:
    """Args: special: a text stands behind the separator that every training document has. Ids are taken as they are.

    Raises:
        ApiError: an empty prompt.
    """
    if isinstance(prompts, str):
        return [encode_text(tokenizer, prompts, special=special)]
    texts = [one for one in prompts if isinstance(one, str)]
    if texts:
        return [encode_text(tokenizer, one, special=special) for one in texts]
    several: Sequence[list[int]] = [one for one in prompts if isinstance(one, list)]
    return list(several) or [[one for one in prompts if isinstance(one, int)]]


def encode_text(tokenizer: Tokenizer, text: str, *, special: bool = True) -> list[int]:
    """Raises ApiError: nothing is left of it."""
    ids = tokenizer.encode(text)
    if special and ids[:1] != [tokenizer.bos_id]:
        ids = [tokenizer.bos_id, *ids]
    if not ids:
        raise ApiError(400, "an empty prompt", param="prompt", code="empty_prompt")
    return ids


def texts_of(tokenizer: Tokenizer, ids: Sequence[list[int]], *, most: int) -> list[str]:
    """Prompts as a guard reads them. An id that the tokeniser does not know is refused later, by name.

    Raises:
        ContextLengthError: one is longer than `most` tokens.
    """
    for one in ids:
        if len(one) > most:
            raise ContextLengthError(prompt=len(one), limit=most)
    return [tokenizer.decode(one) if max(one) < tokenizer.vocab_size else "" for one in ids]


def reread(
    tokenizer: Tokenizer,
    ids: Sequence[list[int]],
    before: Sequence[str],
    after: Sequence[str],
    *,
    special: bool,
    given: Prompts,
) -> list[list[int]]:
    """Prompts whose text the guard changed, in new ids; the others as they are.

    Raises:
        ApiError: one that was given as ids is to be changed: its control tokens would be lost.
    """
    as_text = isinstance(given, str) or isinstance(given[0], str)
    if not as_text and list(before) != list(after):
        raise ApiError(
            400, "the guard redacts something in this prompt, which it cannot do in one given as ids: give it as text",
            param="prompt", code=CONTENT_BLOCKED,
        )  # fmt: skip
    changed = zip(ids, before, after, strict=True)
    return [one if old == new else encode_text(tokenizer, new, special=special) for one, old, new in changed]
