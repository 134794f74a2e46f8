"""What preference methods learn from: token ids of prompts with answers, of which only the answer's tokens count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanok.errors import InputError
from hanok.tokens.tokenizer import Tokenizer
from hanok.training.packing import PackedSequence


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer that was chosen over another.

    Args:
        reference: summed log-probabilities of both under the starting model.
        margin: how much better the chosen one is said to be, in a reward model's score.
    """

    name: str
    chosen: PackedSequence
    rejected: PackedSequence
    reference: tuple[float, float] | None = None
    margin: float = 0.0

    @property
    def num_tokens(self) -> int:
        return self.chosen.num_tokens + self.rejected.num_tokens

    @property
    def sequences(self) -> tuple[PackedSequence, PackedSequence]:
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer with a verdict, and the same prompt with an answer that belongs to another (for KTO's reference point)."""

    name: str
    answer: PackedSequence
    mismatched: PackedSequence
    desirable: bool
    reference: tuple[float, float] | None = None

    @property
    def num_tokens(self) -> int:
        return self.answer.num_tokens

    @property
    def sequences(self) -> tuple[PackedSequence, PackedSequence]:
        return self.answer, self.mismatched


def prompt_ids(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
) -> list[int]:
    """Ids up to where the assistant speaks, behind the separator that every training document has."""
    ids = tokenizer.encode_chat(messages, tools=tools, add_generation_prompt=True).ids
    return ids if ids[:1] == [tokenizer.bos_id] else [tokenizer.bos_id, *ids]


def answer_ids(
    tokenizer: Tokenizer, prompt: Sequence[int], messages: Sequence[Mapping[str, Any]], answer: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None = None,
) -> tuple[list[int], list[bool]]:  # fmt: skip
    """Ids behind the prompt, and which of them the assistant writes; cut behind the last of these.

    Raises:
        InputError: the chat template writes the prompt differently once an answer follows.
    """
    chat = tokenizer.encode_chat([*messages, *answer], tools=tools)
    ids, mask = list(chat.ids), list(chat.loss_mask)
    if ids[:1] != [tokenizer.bos_id]:
        ids, mask = [tokenizer.bos_id, *ids], [False, *mask]
    if ids[: len(prompt)] != list(prompt):
        raise InputError("the chat template changes the prompt when the answer is added")
    ids, mask = ids[len(prompt) :], mask[len(prompt) :]
    end = max((place + 1 for place, learnt in enumerate(mask) if learnt), default=0)
    return ids[:end], mask[:end]


def joined(prompt: Sequence[int], ids: Sequence[int], mask: Sequence[bool], name: str) -> PackedSequence:
    """Prompt and answer as one sequence of which the masked answer counts."""
    tokens = np.array([*prompt, *ids], dtype=np.int64)
    learnt = np.array([*[False] * (len(prompt) - 1), *mask], dtype=bool)
    return PackedSequence(tokens[:-1], tokens[1:], learnt, name)
