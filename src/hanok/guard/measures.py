"""What can be counted beside the folds: the time a detector takes, personal data found, attacks reworded until they get by."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanok.errors import InputError
from hanok.guard.adaptive import MOVES, Move, evade
from hanok.guard.personal import PersonalData

LENGTH = 500  # characters of a text whose cost is measured


@dataclass(frozen=True, slots=True)
class Count:
    """`hits` of `rows`."""

    what: str
    hits: int
    rows: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of processor time for one text."""

    median: float
    p99: float
    texts: int


def cost(judge: Callable[[str], Any], texts: Sequence[str], *, most: int = 400, rounds: int = 5) -> Cost:
    """Of reading LENGTH characters, on one core, every view included. Texts are put together until they are long enough; each
    round counts.

    Raises:
        InputError: too little text.
    """
    long = list(_joined(texts))[:most]
    if not long:
        raise InputError(f"less than {LENGTH} characters of text", remedy="give more rows")
    for text in long[:20]:
        judge(text)
    spent: list[float] = []
    for _ in range(rounds):
        for text in long:
            began = time.process_time_ns()
            judge(text)
            spent.append((time.process_time_ns() - began) / 1e6)
    return Cost(float(np.median(spent)), float(np.quantile(spent, 0.99)), len(long))


def personal_data(file: Path) -> list[Count]:
    """Recall and look-alikes flagged, in all and by kind. Rows: {"text", "spans": [{"start", "end"}], "sub"?}; without spans: a
    look-alike. A span is found if every character of it is covered."""
    rule, counts = PersonalData(), dict[tuple[bool, str], list[bool]]()
    for row in json.loads(file.read_text(encoding="utf-8")):
        covered = {place for found in rule.find(row["text"]) for place in range(found.start, found.end)}
        spans = row.get("spans") or []
        hit = (
            all(covered.issuperset(range(one["start"], one["end"])) for one in spans)
            if spans
            else bool(covered)
        )
        for kind in ("", str(row.get("sub", ""))):
            counts.setdefault((not spans, kind), []).append(hit)
    return [
        Count(
            f"{'look-alikes flagged' if alike else 'found'}{f', {kind}' if kind else ''}",
            sum(hits),
            len(hits),
        )
        for (alike, kind), hits in sorted(counts.items())
    ]


def evasions(
    caught: Sequence[tuple[Callable[[str], float], str]], threshold: float, *, honest: Sequence[str], seed: int = 0,
    budgets: Sequence[int] = (10, 100), moves: Sequence[Move] = MOVES,
) -> list[Count]:  # fmt: skip
    """How many attacks get by, according to what an attacker may do and how often it may ask.

    Args:
        caught: (the score of a detector that was not trained on it, the attack), above the threshold as they stand.
        honest: sentences to pad with.
    """
    counts: list[Count] = []
    means: list[tuple[str, tuple[Move, ...]]] = [(move, (move,)) for move in moves]
    for name, chosen in (*means, ("all of these", tuple(moves))):
        needed: list[int] = []
        for number, (score, attack) in enumerate(caught):
            rng = random.Random(f"{seed} {name} {number}")
            found = evade(
                score, attack, threshold, honest=honest, rng=rng, moves=chosen, queries=max(budgets)
            )
            needed += [found.queries] if found is not None else []
        counts += [
            Count(f"{name}, {budget:,} queries", sum(one <= budget for one in needed), len(caught))
            for budget in budgets
        ]
    return counts


def _joined(texts: Sequence[str]) -> Iterator[str]:
    long = ""
    for text in texts:
        long = f"{long}\n{text}" if long else text
        if len(long) >= LENGTH:
            yield long[:LENGTH]
            long = ""
