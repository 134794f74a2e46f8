"""`hanok guard compare-attacks`: the same attacks before and after, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hanok.errors import RegressionError
from hanok.reporting import table

if TYPE_CHECKING:
    from hanok.evaluation.statistics import Change

Run = Annotated[Path, tyro.conf.Positional]
_COLUMNS = ("family", "pairs", "wrong before", "after", "difference", "gone right", "gone wrong", "p")
_ATTACKS = "all attacks"


def compare_attacks(before: Run, after: Run) -> dict[str, Any]:
    """Which attacks work on one model, or under one policy, and not on another: pairs of the same attack, with intervals over
    the pairs. Exit code 1 if more goes wrong than before.

    Args:
        before: what `hanok guard attack --out` wrote.
        after: the same, later.
    """
    from hanok.guard.attack_runs import paired

    changes = compared(paired(before, after))
    table(
        f"{before} and {after}: share that went wrong (95 % for all families together)",
        _COLUMNS,
        _lines(changes),
    )
    worse = [name for name, (_, change) in changes.items() if change.low > 0]
    if worse:
        raise RegressionError(
            f"more goes wrong than before: {', '.join(worse)}", remedy="see which: attacks.jsonl in both"
        )
    better = [name for name, (_, change) in changes.items() if change.high < 0]
    return {"families": {name: _plain(*found) for name, found in changes.items()}, "better": better}


def compared(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> dict[str, tuple[int, Change]]:
    """By family how many pairs, and the change in the share that went wrong; and of all attacks together, in which honest
    questions do not count. Intervals hold for all of them together (Bonferroni)."""
    from hanok.evaluation.statistics import paired_change

    groups: dict[str, list[tuple[bool, bool]]] = {}
    for before, after in pairs:
        wrong = (before["result"] == "wrong", after["result"] == "wrong")
        groups.setdefault(before["family"], []).append(wrong)
        if before["goal"] != "answer":
            groups.setdefault(_ATTACKS, []).append(wrong)
    confidence = 1 - 0.05 / len(groups)
    return {
        name: (len(found), paired_change(*zip(*found, strict=True), confidence=confidence)) for name, found in groups.items()
    }  # fmt: skip


def _plain(pairs: int, change: Change) -> dict[str, Any]:
    values = asdict(change)
    return {"pairs": pairs, "gone_right": values.pop("lost"), "gone_wrong": values.pop("gained"), **values}


def _lines(changes: Mapping[str, tuple[int, Change]]) -> list[tuple[str, ...]]:
    return [
        (
            name, str(pairs), f"{one.before:.1%}", f"{one.after:.1%}",
            f"{one.difference:+.1%} ({one.low:+.1%} to {one.high:+.1%})", str(one.lost), str(one.gained), f"{one.p_value:.3g}",
        )
        for name, (pairs, one) in sorted(changes.items(), key=lambda item: item[0] != _ATTACKS)
    ]  # fmt: skip
