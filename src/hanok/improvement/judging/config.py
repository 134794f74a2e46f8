"""What a judge and a critic are told. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanok.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkConfig:
    """What asking a chat model many things needs, whatever they are.

    Args:
        language: of the questions that the model is asked, and of the constitution.
        concurrency: rows under way at one time.
        timeout: seconds of one question, all its attempts at the service included.
        max_tokens: of a reply.
        give_up_after: failures in a row that end the run (what was done is kept): the service is down.
        seed: of what is drawn.
    """

    language: Literal["ko", "en"] = "en"
    concurrency: int = 8
    timeout: float = 120.0
    max_tokens: int = 512
    give_up_after: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("concurrency", "timeout", "max_tokens", "give_up_after"):
            _require(getattr(self, name) > 0, f"{name} = {getattr(self, name)}", "it must be more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig(WorkConfig):
    """How pairs are labelled.

    Args:
        verdict: "words": the judge writes reasons and a last line; "probabilities": the law of its first token over 1 and 2.
        margin: an answer is preferred where its probability, the mean over both orders, is further than this from a half.
            Default: words 0.25 (both orders must say so), probabilities 0.05.
        reminders: times that a judge without a verdict is asked for it alone.
        samples: answers drawn to a prompt, of which the first two that differ are judged. temperature: of that draw.
        source, licence: of rows that do not say.
    """

    verdict: Literal["words", "probabilities"] = "words"
    margin: float | None = None
    reminders: int = 1
    samples: int = 4
    temperature: float = 1.0
    source: str = ""
    licence: str = "unknown"

    def __post_init__(self) -> None:
        WorkConfig.__post_init__(self)
        _require(
            self.margin is None or 0 <= self.margin < 0.5,
            f"margin = {self.margin}",
            "it must lie in [0, 0.5)",
        )
        _require(self.reminders >= 0, f"reminders = {self.reminders}", "it must be 0 or more")
        _require(self.samples >= 2, f"samples = {self.samples}", "two answers at least make a pair")
        _require(
            self.temperature > 0, f"temperature = {self.temperature}", "equal answers cannot be compared"
        )

    def decided_beyond(self) -> float:
        if self.margin is not None:
            return self.margin
        return 0.25 if self.verdict == "words" else 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviseConfig(WorkConfig):
    """How answers are criticised and revised.

    Args:
        rounds: of critique and revision, each by a principle that is drawn for it.
        temperature: of first answers; critiques and revisions are greedy.
        source, licence: of rows that do not say.
    """

    rounds: int = 2
    temperature: float = 1.0
    source: str = ""
    licence: str = "unknown"

    def __post_init__(self) -> None:
        WorkConfig.__post_init__(self)
        _require(self.rounds >= 1, f"rounds = {self.rounds}", "it must be at least 1")
        _require(self.temperature >= 0, f"temperature = {self.temperature}", "it must not be negative")


def _require(condition: bool, message: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(message, remedy=remedy)
