"""What verify measures. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hanok.errors import ConfigError

Split = Literal["exam", "validation"]
QUESTIONS: Mapping[Split, str] = {"exam": "questions.jsonl", "validation": "questions-validation.jsonl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """How step 6 measures a model.

    Args:
        questions: at most this many of the village's questions, drawn evenly from their order; 0 = all.
        max_new_tokens: an answer's (or a tool call's) tokens at most.
        tool_rounds: answers to tool calls within one question at most.
        bits_tokens: tokens of each held-out split scored for bits per byte at most; 0 = all.
        batch_tokens: tokens scored at a time; bounds memory.
        confidence: of the intervals.
        samples: answers of each kind and language shown in full in the report; wrong ones come first.
        seed: of the bootstrap.
    """

    questions: int = 0
    max_new_tokens: int = 160
    tool_rounds: int = 2
    bits_tokens: int = 200_000
    batch_tokens: int = 8192
    confidence: float = 0.95
    samples: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("questions", 0), ("max_new_tokens", 1), ("tool_rounds", 0), ("bits_tokens", 0), ("batch_tokens", 1),
            ("samples", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy=f"it must be {least} or more")
        if not 0.5 <= self.confidence < 1.0:
            raise ConfigError(f"confidence = {self.confidence}", remedy="it must be at least 0.5 and below 1")
