"""Run rewards over rows: weighted sums, and a count of everything that could not be judged.

A reward that raises, returns no number, or takes too long becomes a skip: None for that row, counted by reason, and one
line in the log for each reward and reason of a batch. The row's total is then None too. A total without the missing
part would be the silent zero that a policy learns to provoke.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from hanok.errors import ConfigError, HanokError
from hanok.reporting import log
from hanok.training.rewards.base import BatchReward, Reward, Row, SkipReward

NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Mix:
    """Named rewards with their weights."""

    parts: Mapping[str, tuple[Reward, float]]


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """Rewards of a batch, in the order of its rows.

    Args:
        totals: weighted sums; None where a part skipped the row or no part applies to it.
        parts: name -> that reward's own numbers; None where it did not apply or skipped.
        counts: name -> how often "scored", "not applicable", and each reason for a skip.
    """

    totals: list[float | None]
    parts: dict[str, list[float | None]]
    counts: dict[str, Counter[str]]

    @property
    def skipped(self) -> int:
        """Rows without a total."""
        return sum(total is None for total in self.totals)

    def with_nan(self) -> list[float]:
        """Totals with NaN for None, as `objectives.advantages` wants them."""
        return [math.nan if total is None else total for total in self.totals]

    def metrics(self) -> dict[str, float]:
        """Means over what was judged, and the shares of rows skipped: in all and by each reward."""
        values: dict[str, float] = {"reward.skipped": self.skipped / max(len(self.totals), 1)}
        for name, numbers in [("reward", self.totals), *((f"reward.{n}", p) for n, p in self.parts.items())]:
            known = [number for number in numbers if number is not None]
            if known:
                values[name] = sum(known) / len(known)
        for name, counter in self.counts.items():
            skips = sum(n for reason, n in counter.items() if reason not in ("scored", NOT_APPLICABLE))
            values[f"reward.{name}.skipped"] = skips / max(len(self.totals), 1)
        return values


def mix(parts: Mapping[str, Reward | tuple[Reward, float]]) -> Mix:
    """Compose rewards: `mix({"right": exact_answer(), "form": (tags(), 0.2)})`; a bare reward weighs 1."""
    if not parts:
        raise ConfigError("a mix of no rewards", remedy="name at least one")
    weighted = {name: part if isinstance(part, tuple) else (part, 1.0) for name, part in parts.items()}
    for name, (_, weight) in weighted.items():
        if not math.isfinite(weight) or weight == 0:
            raise ConfigError(f"reward {name!r} has weight {weight}", remedy="give it a number other than 0")
    return Mix(weighted)


def score(
    rewards: Mix | Reward, rows: Sequence[Row], *, concurrency: int = 8, timeout: float = 120.0
) -> RewardBatch:
    """Judge every row; not to be called from a running event loop (there: `await score_async(...)`).

    Args:
        concurrency: rows that wait for something at one time.
        timeout: seconds for each reward of each row that is awaited.

    Raises:
        HanokError: a reward is set up wrongly (no sandbox, no such column): no row would fare better.
    """
    return asyncio.run(score_async(rewards, rows, concurrency=concurrency, timeout=timeout))


async def score_async(
    rewards: Mix | Reward, rows: Sequence[Row], *, concurrency: int = 8, timeout: float = 120.0
) -> RewardBatch:
    parts = rewards.parts if isinstance(rewards, Mix) else {"reward": (rewards, 1.0)}
    gate = asyncio.Semaphore(concurrency)
    judged: dict[str, Sequence[float | _Skip | None]] = {}
    for name, (reward, _) in parts.items():
        if isinstance(reward, BatchReward):
            judged[name] = _judge_rows(reward, rows)
        else:
            judged[name] = await asyncio.gather(*(_judge(reward, row, gate, timeout) for row in rows))
    counts = {name: Counter(map(_outcome, verdicts)) for name, verdicts in judged.items()}
    for name, verdicts in judged.items():
        _log_skips(name, verdicts)
    weights = {name: weight for name, (_, weight) in parts.items()}
    totals = [_total({name: judged[name][i] for name in parts}, weights) for i in range(len(rows))]
    numbers: dict[str, list[float | None]] = {
        name: [None if isinstance(v, _Skip) else v for v in verdicts] for name, verdicts in judged.items()
    }
    return RewardBatch(totals, numbers, counts)


@dataclass(frozen=True, slots=True)
class _Skip:
    reason: str
    detail: str


async def _judge(reward: Any, row: Row, gate: asyncio.Semaphore, timeout: float) -> float | _Skip | None:
    async with gate:
        try:
            result = reward(row.prompt, row.completion, row.columns)
            if isawaitable(result):
                async with asyncio.timeout(timeout):
                    result = await result
        except TimeoutError:
            return _Skip("timeout", f"no answer within {timeout:g} seconds")
        except SkipReward as skip:
            return _Skip(skip.reason, str(skip))
        except HanokError:
            raise
        except Exception as error:
            return _Skip(f"raised {type(error).__name__}", str(error))
    return _number(result)


def _judge_rows(reward: BatchReward, rows: Sequence[Row]) -> list[float | _Skip | None]:
    try:
        results = list(reward.score_rows(rows))
    except HanokError:
        raise
    except Exception as error:
        return [_Skip(f"raised {type(error).__name__}", str(error))] * len(rows)
    if len(results) != len(rows):
        return [_Skip("wrong count", f"{len(results)} numbers for {len(rows)} rows")] * len(rows)
    return [_number(result) for result in results]


def _number(result: Any) -> float | _Skip | None:
    if result is None:
        return None
    try:
        number = float(result)
    except (TypeError, ValueError):
        return _Skip("not a number", repr(result)[:100])
    return number if math.isfinite(number) else _Skip("not a number", repr(result))


def _total(verdicts: Mapping[str, float | _Skip | None], weights: Mapping[str, float]) -> float | None:
    numbers: list[float] = []
    for name, verdict in verdicts.items():
        if isinstance(verdict, _Skip):
            return None
        if verdict is not None:
            numbers.append(weights[name] * verdict)
    return sum(numbers) if numbers else None


def _outcome(verdict: float | _Skip | None) -> str:
    if isinstance(verdict, _Skip):
        return verdict.reason
    return NOT_APPLICABLE if verdict is None else "scored"


def _log_skips(name: str, verdicts: Sequence[float | _Skip | None]) -> None:
    skips = [verdict for verdict in verdicts if isinstance(verdict, _Skip)]
    for reason, count in Counter(skip.reason for skip in skips).items():
        first = next(skip.detail for skip in skips if skip.reason == reason)
        log.warning("reward %s skipped %d of %d rows (%s): %s", name, count, len(verdicts), reason, first)
