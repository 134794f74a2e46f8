"""From rows with categories to a classifier of harm, and what it does on rows of groups that it has not seen.

Rows are JSON lines: {"text", "categories": [...], "group"?, "annotated"?: [...], "set"?}. `annotated` names the categories that
somebody looked for in this row; without it, all of them. A category learns from the rows that it was looked for in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanok.artefacts.files import read_jsonl
from hanok.errors import InputError
from hanok.guard.grams import BITS
from hanok.guard.harm import HarmClassifier
from hanok.guard.lessons import Reader
from hanok.guard.linear import solve
from hanok.guard.training import fold_of, threshold_for

PENALTY = 1e-5


@dataclass(frozen=True, slots=True)
class HarmRow:
    """`annotated`: None for all categories."""

    text: str
    categories: frozenset[str]
    group: str
    annotated: frozenset[str] | None = None
    set: str = ""

    def label(self, category: str) -> int | None:
        """None: nobody looked."""
        if self.annotated is not None and category not in self.annotated:
            return None
        return int(category in self.categories)


@dataclass(frozen=True, slots=True)
class HarmJudged:
    """`scores` [C] by a classifier that saw no row of this row's group."""

    row: HarmRow
    scores: np.ndarray


def read_harm_rows(path: Path) -> list[HarmRow]:
    """Raises InputError for a row that is none, or if there are none."""
    rows: list[HarmRow] = []
    for number, raw in enumerate(read_jsonl(path), start=1):
        named = raw.get("categories")
        if not isinstance(raw.get("text"), str) or not _names(named) or not _names(raw.get("annotated", [])):
            raise InputError(
                f'{path}, row {number}: needs "text" and "categories", a list of names',
                remedy="mend the row or leave it out",
            )
        rows.append(_row(raw))
        if rows[-1].annotated is not None and (odd := rows[-1].categories - rows[-1].annotated):
            raise InputError(
                f'{path}, row {number}: "{min(odd)}" is among its categories and not among those annotated',
                remedy="name it in both, or in neither",
            )
    if not rows:
        raise InputError(f"{path} has no rows", remedy='give JSON lines of {"text", "categories"}')
    return rows


def categories_of(rows: Sequence[HarmRow]) -> tuple[str, ...]:
    found = tuple(sorted({name for row in rows for name in row.categories}))
    if not found:
        raise InputError(
            "no row has a category", remedy="a classifier needs rows of each kind of harm, and rows of none"
        )
    return found


def fit_harm(
    rows: Sequence[HarmRow], categories: Sequence[str], *, seed: int = 0, penalty: float = PENALTY
) -> HarmClassifier:
    """Thresholds are 0 until they are calibrated.

    Raises:
        InputError: a category has no rows, or nothing but.
    """
    return _solved(_taught(rows, seed), categories, penalty)


def cross_validate_harm(
    rows: Sequence[HarmRow],
    categories: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
    penalty: float = PENALTY,
) -> Iterator[HarmJudged]:
    """Rows of one group are in one fold."""
    placed = {id(row): fold_of(f"{row.set}{row.group}", folds) for row in rows}
    taught = _taught(rows, seed)
    for fold in range(folds):
        unseen = [row for row in rows if placed[id(row)] == fold]
        if not unseen:
            continue
        classifier = _solved([one for one in taught if placed[id(one[0])] != fold], categories, penalty)
        for row in unseen:
            yield HarmJudged(row, classifier.judge(row.text))


_Taught = tuple[HarmRow, np.ndarray]


def _taught(rows: Sequence[HarmRow], seed: int) -> list[_Taught]:
    """Each row, and once more in disguise, with the n-grams of its reading."""
    reader = Reader(seed)
    return [(row, grams) for row in rows for grams in reader.learnt(row.text)]


def _solved(taught: Sequence[_Taught], categories: Sequence[str], penalty: float) -> HarmClassifier:
    weights, biases = np.zeros((1 << BITS, len(categories)), dtype=np.float32), np.zeros(len(categories))
    for place, category in enumerate(categories):
        labelled = [(grams, label) for row, grams in taught if (label := row.label(category)) is not None]
        labels = [label for _, label in labelled]
        if not 0 < sum(labels) < len(labels):
            rows = {id(row): row.label(category) for row, _ in taught if row.label(category) is not None}
            raise InputError(
                f'category "{category}": {sum(map(bool, rows.values()))} of {len(rows)} rows have it',
                remedy="give rows with it and without it",
            )
        weights[:, place], biases[place] = solve([grams for grams, _ in labelled], labels, penalty=penalty)
    return HarmClassifier(tuple(categories), weights, biases, np.zeros(len(categories)))


def thresholds_for(
    judged: Sequence[HarmJudged], categories: Sequence[str], false_alarms: float
) -> np.ndarray:
    """Of each category, by the rows that it was looked for in and not found: [C]."""
    return np.array([
        threshold_for([float(one.scores[place]) for one in judged if one.row.label(category) == 0], false_alarms)
        for place, category in enumerate(categories)
    ])  # fmt: skip


def recalls(
    judged: Sequence[HarmJudged], categories: Sequence[str], thresholds: np.ndarray
) -> list[dict[str, Any]]:
    """A line for each category: rows with it, the share of them found, the share of the others flagged, and the area under the
    curve of both."""
    lines: list[dict[str, Any]] = []
    for place, category in enumerate(categories):
        scored = [(float(one.scores[place]), one.row.label(category)) for one in judged]
        have = np.array([score for score, label in scored if label == 1])
        others = np.array([score for score, label in scored if label == 0])
        lines.append({
            "category": category, "rows": len(have), "others": len(others), "threshold": float(thresholds[place]),
            "recall": float((have > thresholds[place]).mean()), "false_alarms": float((others > thresholds[place]).mean()),
            "auc": auc(have, others),
        })  # fmt: skip
    return lines


def auc(have: np.ndarray, others: np.ndarray) -> float:
    """The chance that a row with it scores above one without it; a tie counts half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, have, side="left") + np.searchsorted(ordered, have, side="right")
    return float(below.mean() / (2 * len(ordered)))


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)


def _row(raw: Mapping[str, Any]) -> HarmRow:
    annotated = raw.get("annotated")
    return HarmRow(
        text=raw["text"], categories=frozenset(raw["categories"]), group=str(raw.get("group", raw["text"])),
        annotated=None if annotated is None else frozenset(annotated), set=str(raw.get("set") or ""),
    )  # fmt: skip
