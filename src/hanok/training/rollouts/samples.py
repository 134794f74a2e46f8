"""What is learnt from an answer: its ids as they were drawn, and a number for each of them. M tokens of the answer."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hanok.training.align.examples import joined
from hanok.training.packing import PackedSequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Args:
    prompt, answer: ids. advantage: one a token.
    generator_logp: as the engine drew them. old_logp: under the learner when they were drawn; None: it has not moved.
    reference_logp: under the starting model. old_values, returns: PPO's.
    teaches: False of one that stands for a step in which nothing is to be learnt.
    step_answers, step_tokens: of the whole step, those that teach nothing and were left out included.
    answer_tokens: of the whole answer, where this is one of its chunks. prompt_tokens: of all answers to its prompt.
    step_prompts: of the step, of which some answer teaches.
    """

    name: str
    prompt: Sequence[int]
    answer: Sequence[int]
    advantage: Sequence[float]
    generator_logp: Sequence[float]
    step_answers: int
    step_tokens: int
    answer_tokens: int
    prompt_tokens: int
    step_prompts: int
    old_logp: Sequence[float] | None = None
    reference_logp: Sequence[float] | None = None
    old_values: Sequence[float] | None = None
    returns: Sequence[float] | None = None
    teaches: bool = True

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.answer) - 1

    @property
    def sequence(self) -> PackedSequence:
        return as_sequence(self.prompt, self.answer)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def as_sequence(prompt: Sequence[int], answer: Sequence[int]) -> PackedSequence:
    return joined(prompt, answer, [True] * len(answer), "")


def name_of(prompt: str, sample: int, answer: Sequence[int]) -> str:
    """Names the very ids, so that the log's fingerprint of a step tells whether two runs drew the same answers."""
    return f"{prompt}/{sample}/{zlib.crc32(repr(list(answer)).encode()):08x}"


def column(samples: Sequence[Sample], name: str) -> Tensor | None:
    """A number a token of all samples, one behind the other [M], float32; None if they have none."""
    parts = [getattr(sample, name) for sample in samples]
    if any(part is None for part in parts):
        return None
    return torch.tensor([number for part in parts for number in part], dtype=torch.float32)


def from_json(row: Mapping[str, Any]) -> Sample:
    return Sample(**row)
