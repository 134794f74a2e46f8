"""From labelled rows to a detector, and what it does on rows of groups that it has not seen.

Rows are JSON lines: {"text", "label": 1 or 0, "group", "set"?, "language" or "lang"?, "register"?}. Rows of one group
(paraphrases of one attack, answers to one question) are kept in one fold: otherwise a detector is asked what it was told.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanok.artefacts.files import read_jsonl
from hanok.errors import InputError
from hanok.guard.disguises import any_disguise, disguised
from hanok.guard.linear import LinearDetector, pieces, train
from hanok.guard.views import View, views

_DISGUISED = 0.5  # share of the rows, of both labels, that training sees in disguise too


@dataclass(frozen=True, slots=True)
class Row:
    text: str
    label: int
    group: str
    set: str = ""
    language: str = ""
    register: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """`disguise`: what was put over the row's text, "none" for nothing."""

    row: Row
    score: float
    disguise: str = "none"


def read_rows(path: Path, *, sets: Set[str] = frozenset(), task: str | None = None) -> list[Row]:
    """Those of the sets and the task, or all. Raises InputError for a row that is none."""
    rows: list[Row] = []
    for number, raw in enumerate(read_jsonl(path), start=1):
        if (sets and raw.get("set") not in sets) or (task is not None and raw.get("task") != task):
            continue
        if not isinstance(raw.get("text"), str) or raw.get("label") not in (0, 1):
            raise InputError(
                f'{path}, row {number}: needs "text" and "label" 0 or 1',
                remedy="mend the row or leave it out",
            )
        rows.append(_row(raw))
    if not rows:
        raise InputError(f"{path} has no rows of that kind", remedy="check --task and --sets")
    return rows


def fit(
    name: str, rows: Sequence[Row], *, seed: int = 0, lines: bool = False, penalty: float = 1e-5
) -> LinearDetector:
    """Train on the rows, and on half of them once more in a disguise, whatever their label.

    Args:
        lines: rows are documents, and those of label 1 carry something that those of label 0 have not: each line that no
            clean row has counts as planted.
    """
    taught = list(_by_line(rows)) if lines else [(row.text, row.label) for row in rows]
    readings, numbers = readings_of([text for text, _ in taught], random.Random(seed))
    return train(name, readings, [taught[number][1] for number in numbers], penalty=penalty, lines=lines)


def readings_of(texts: Sequence[str], rng: random.Random) -> tuple[list[str], list[int]]:
    """Each text as a detector reads it, half of them once more as read in a disguise; and the number of each one's text."""
    readings: list[str] = []
    numbers: list[int] = []
    for number, text in enumerate(texts):
        readings.append(views(text)[0].text)
        numbers.append(number)
        if rng.random() < _DISGUISED:
            readings.append(_seen_through(views(any_disguise(text, rng))))
            numbers.append(number)
    return readings, numbers


def fold_of(group: str, folds: int) -> int:
    """The same for all rows of a group, wherever it is asked."""
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % folds


def cross_validate(
    rows: Sequence[Row], *, folds: int = 5, seed: int = 0, lines: bool = False, untrained: Set[str] = frozenset(),
    disguises: Sequence[str] = (),
) -> Iterator[Judged]:  # fmt: skip
    """Every row's score from a detector that saw no row of its group.

    Args:
        untrained: sets that are judged and never trained on. disguises: to judge each row in besides.
    """
    placed = [(row, fold_of(f"{row.set}{row.group}", folds)) for row in rows]
    for fold in range(folds):
        known = [row for row, place in placed if place != fold and row.set not in untrained]
        detector = fit("fold", known, seed=seed, lines=lines)
        rng = random.Random(f"{seed} {fold}")
        for row in (row for row, place in placed if place == fold):
            yield Judged(row, detector.judge(row.text).score)
            for way in disguises:
                yield Judged(row, detector.judge(disguised(row.text, way, rng)).score, way)


def threshold_for(scores: Sequence[float], false_alarms: float) -> float:
    """The lowest threshold at which at most this share of the (benign) scores is above it."""
    if not scores:
        raise InputError("no benign rows to calibrate on", remedy="give rows of label 0, or plain texts")
    ordered = np.sort(np.asarray(scores))[::-1]
    allowed = int(false_alarms * len(ordered) + 1e-9)
    return float(ordered[allowed]) if allowed < len(ordered) else float("-inf")


def _by_line(rows: Sequence[Row]) -> Iterator[tuple[str, int]]:
    clean = {line for row in rows if not row.label for line in _lines(row.text)}
    planted: dict[str, None] = {}
    for row in rows:
        if row.label:
            planted.update((line, None) for line in _lines(row.text) if line not in clean)
    yield from ((line, 0) for line in sorted(clean))
    yield from ((line, 1) for line in planted)


def _lines(text: str) -> list[str]:
    return [text[start:end].strip() for start, end in pieces(text, lines=True)]


def _seen_through(readings: Sequence[View]) -> str:
    """The reading that shows the words: decoded if something was, turned back if it was turned."""
    for ways in (("tags", "decoded"), ("rot13",)):
        for view in readings:
            if view.way in ways:
                return view.text
    return readings[0].text


def _row(raw: dict[str, Any]) -> Row:
    return Row(
        text=raw["text"], label=raw["label"], group=str(raw.get("group", raw.get("id", raw["text"]))),
        set=str(raw.get("set") or ""), language=str(raw.get("language") or raw.get("lang") or ""),
        register=str(raw.get("register") or ""),
    )  # fmt: skip
