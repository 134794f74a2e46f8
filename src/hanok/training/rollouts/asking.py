"""What models are asked when they are to write themselves: prompts cut from the documents of shards, or from a file.

A chat is cut where the assistant speaks (at one of its turns, chosen by the document's name), a text behind its first tokens.
Both sources are functions of (seed, cursor), as batches are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from hanok.training.packing import PackedSequence
from hanok.training.rollouts.prompts import Prompt
from hanok.training.sampler import Sampler


class Asks(Protocol):
    """Prompts of one step after another; `Rows` over prompts is one too."""

    def draw_step(self) -> list[Prompt]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class ShardPrompts:
    """Prompts cut from the documents that `sampler` draws.

    Args:
        text_tokens: of a text document. room: longer prompts are left out.
    """

    def __init__(self, sampler: Sampler, *, text_tokens: int, room: int) -> None:
        self._sampler, self._text_tokens, self._room = sampler, text_tokens, room

    def draw_step(self) -> list[Prompt]:
        """Of one step's documents; empty if none of them has a prompt that fits."""
        found = [cut(sequence, text_tokens=self._text_tokens) for sequence in self._sampler.draw_step()]
        return [prompt for prompt in found if prompt is not None and prompt.num_tokens <= self._room]

    def state(self) -> dict[str, Any]:
        return self._sampler.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sampler.restore(state)


def cut(sequence: PackedSequence, *, text_tokens: int) -> Prompt | None:
    """The prompt of a document; None if there is nothing to write behind it."""
    if sequence.mask.all():
        end = min(text_tokens, sequence.num_tokens // 2)
        return Prompt(sequence.name, tuple(sequence.ids[:end].tolist()), (), {}) if end else None
    turns = np.flatnonzero(np.diff(sequence.mask.astype(np.int8), prepend=0) == 1)
    if not len(turns):
        return None
    turn = int(turns[zlib.crc32(sequence.name.encode()) % len(turns)])
    return Prompt(sequence.name, tuple(sequence.ids[: turn + 1].tolist()), (), {})
