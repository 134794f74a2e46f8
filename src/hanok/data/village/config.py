"""How large the village is. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from hanok.errors import ConfigError

LANGUAGES = ("ko", "en")


@dataclass(frozen=True, kw_only=True, slots=True)
class VillageConfig:
    """Size of the village and of its conversations.

    Args:
        seed: equal seeds give byte-identical corpora.
        places: real places; unknown ones are drawn from the same names.
        languages: "ko", "en" or both.
        documents_per_place: descriptions, notices, letters, reviews and histories, per language.
        asks_per_fact: training questions about each (place, attribute) pair, per language.
        documents_only: share of the pairs that training states in documents but never asks.
        arithmetic, abstentions, comparisons, follow_ups, tool_calls, small_talk, letters: training dialogues, per language.
        test_questions: held-out questions of each kind, per language (the smaller kinds take a part of it).
        validation_questions: the same for the validation set.
    """

    seed: int = 1
    places: int = 60
    languages: tuple[str, ...] = LANGUAGES
    documents_per_place: int = 10
    asks_per_fact: int = 5
    documents_only: float = 0.1
    arithmetic: int = 6000
    abstentions: int = 800
    comparisons: int = 2000
    follow_ups: int = 500
    tool_calls: int = 240
    small_talk: int = 120
    letters: int = 60
    test_questions: int = 240
    validation_questions: int = 24

    def __post_init__(self) -> None:
        if not 10 <= self.places <= 300:
            raise ConfigError(f"places = {self.places}", remedy="it must lie between 10 and 300")
        if not self.languages or set(self.languages) - set(LANGUAGES):
            raise ConfigError(f"languages = {self.languages}", remedy='choose from "ko" and "en"')
        if not 0.0 <= self.documents_only < 1.0:
            raise ConfigError(
                f"documents_only = {self.documents_only}", remedy="it must be at least 0 and below 1"
            )
        counts = (
            "documents_per_place", "asks_per_fact", "arithmetic", "abstentions", "comparisons", "follow_ups",
            "tool_calls", "small_talk", "letters", "test_questions", "validation_questions",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy="it must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentDataConfig:
    """How much of the harder village is written, per language.

    Args:
        seed: equal seeds give byte-identical files.
        pairs: preference pairs to learn from. prompts: sums to practise. validation: of each, to watch the training by.
        questions: of the exam, of each kind (abstention, fact, arithmetic).
        digits: of both operands of a sum (of the left one, in a product).
    """

    seed: int = 1
    pairs: int = 2000
    prompts: int = 2000
    validation: int = 100
    questions: int = 1000
    digits: int = 4

    def __post_init__(self) -> None:
        for name in ("pairs", "prompts", "validation", "questions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy="it must be at least 1")
        if not 1 <= self.digits <= 12:
            raise ConfigError(f"digits = {self.digits}", remedy="it must lie between 1 and 12")


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyDataConfig:
    """How much of the village to tune safety in is written, per language.

    Args:
        seed: equal seeds give byte-identical files.
        pairs: preference pairs to learn from.
        validation: pairs to watch the training by; half as many questions of each kind to choose settings by.
        questions: of the exam, of each kind and way of obfuscation.
    """

    seed: int = 1
    pairs: int = 3000
    validation: int = 100
    questions: int = 100

    def __post_init__(self) -> None:
        for name, least in (("pairs", 1), ("validation", 2), ("questions", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}", remedy=f"it must be at least {least}")
