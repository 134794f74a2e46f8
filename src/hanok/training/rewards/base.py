"""What a reward is.

    (prompt, completion, columns) -> float | None, or an awaitable of it

prompt: the text or the messages before the completion; columns: whatever else the row of data holds. None says "this
row is none of mine" (a reward for code on a row about history). A reward that cannot judge a row that is its own
raises `SkipReward`: the row is then counted, logged and left out, and never takes part as a zero.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Prompt = str | Sequence[Mapping[str, Any]]
Columns = Mapping[str, Any]
RewardFunction = Callable[[Prompt, str, Columns], "float | Awaitable[float | None] | None"]


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to judge."""

    prompt: Prompt
    completion: str
    columns: Columns = field(default_factory=dict)


@runtime_checkable
class BatchReward(Protocol):
    """A reward that wants all rows at once, such as a reward model."""

    def score_rows(self, rows: Sequence[Row]) -> Sequence[float | None]: ...


Reward = RewardFunction | BatchReward


class SkipReward(Exception):  # noqa: N818 - a verdict, not an error
    """This completion cannot be judged, for the `reason` that counts go by (few words, the same for all such rows)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
