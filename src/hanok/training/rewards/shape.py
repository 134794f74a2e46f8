"""Rewards for the shape of an answer: its parts and its length."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hanok.errors import ConfigError
from hanok.training.rewards.base import Columns, Prompt, RewardFunction


def tags(names: Sequence[str] = ("think", "answer")) -> RewardFunction:
    """1 if the completion is <a>...</a><b>...</b>, each once, in this order, nothing around them; else 0."""
    body = r"\s*".join(
        rf"<{re.escape(name)}>(?:(?!</?{re.escape(name)}>).)*</{re.escape(name)}>" for name in names
    )
    pattern = re.compile(rf"\s*{body}\s*", re.DOTALL)

    def reward(prompt: Prompt, completion: str, columns: Columns) -> float:
        once = all(completion.count(f"<{name}>") == 1 for name in names)
        return float(once and pattern.fullmatch(completion) is not None)

    return reward


def characters_between(low: int, high: int) -> RewardFunction:
    """1 if the completion has at least `low` and at most `high` characters, else 0."""
    if not 0 <= low <= high:
        raise ConfigError(f"between {low} and {high} characters", remedy="0 <= low <= high")

    def reward(prompt: Prompt, completion: str, columns: Columns) -> float:
        return float(low <= len(completion) <= high)

    return reward


def overlong(max_tokens: int, cache: int, *, column: str = "completion_tokens") -> RewardFunction:
    """0 up to max_tokens - cache, then linearly down to -1 at max_tokens, -1 beyond (DAPO, arXiv 2503.14476, eq. 13).

    Args:
        column: number of tokens of the completion, which the roll-out knows.
    """
    if not 0 < cache <= max_tokens:
        raise ConfigError(f"a cache of {cache} tokens before {max_tokens}", remedy="0 < cache <= max_tokens")

    def reward(prompt: Prompt, completion: str, columns: Columns) -> float:
        if column not in columns:
            raise ConfigError(f"no column {column!r}", remedy="roll-outs must count their tokens")
        return overlong_penalty(int(columns[column]), max_tokens, cache)

    return reward


def overlong_penalty(tokens: int, max_tokens: int, cache: int) -> float:
    """Of an answer of so many tokens, from 0 to -1: what `overlong` gives."""
    return -min(max((tokens - (max_tokens - cache)) / cache, 0.0), 1.0)
