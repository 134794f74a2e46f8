"""From labelled rows to a detector, and what it does on rows of groups that it has not seen.

Rows are JSON lines: {"text", "label": 1 or 0, "group", "set"?, "language" or "lang"?, "register"?}. Rows of one group
(paraphrases of one attack, answers to one question) are kept in one fold: otherwise a detector is asked what it was told.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanok.artefacts.files import read_jsonl
from hanok.errors import InputError, did_you_mean
from hanok.guard.disguises import disguised
from hanok.guard.lessons import PENALTY, Lesson, Reader, lessons_of, teach
from hanok.guard.linear import LinearDetector
from hanok.guard.planted import lines_of, planted_lines


@dataclass(frozen=True, slots=True)
class Row:
    text: str
    label: int
    group: str
    set: str = ""
    language: str = ""
    register: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """`disguise`: what was put over the row's text, "none" for nothing."""

    row: Row
    score: float
    disguise: str = "none"


def read_rows(
    path: Path, *, sets: Set[str] = frozenset(), task: str | None = None, style: str = "style"
) -> list[Row]:
    """Those of the sets and the task, or all. Raises InputError for a row that is none.

    Args:
        style: the field that names the style of an attack.
    """
    rows: list[Row] = []
    for number, raw in enumerate(read_jsonl(path), start=1):
        if (sets and raw.get("set") not in sets) or (task is not None and raw.get("task") != task):
            continue
        if not isinstance(raw.get("text"), str) or raw.get("label") not in (0, 1):
            raise InputError(
                f'{path}, row {number}: needs "text" and "label" 0 or 1',
                remedy="mend the row or leave it out",
            )
        rows.append(_row(raw, style))
    if not rows:
        raise InputError(f"{path} has no rows of that kind", remedy="check --task and --sets")
    return rows


def check_sets(rows: Sequence[Row], names: Iterable[str]) -> None:
    """Raises InputError for a set without rows: a slip in it would train on what is to be judged alone, say."""
    known = {row.set for row in rows}
    for name in names:
        if name not in known:
            raise InputError(f'no rows of the set "{name}"', remedy=did_you_mean(name, known))


def read_lines(files: Sequence[Path]) -> list[Lesson]:
    """Text that gives no orders to a model, for a detector of documents: JSON lines with a "text" each, or plain text."""
    texts: dict[str, None] = {}
    for file in files:
        whole = (
            [str(row.get("text", "")) for row in read_jsonl(file)]
            if file.suffix == ".jsonl"
            else [file.read_text(encoding="utf-8")]
        )
        texts.update((line, None) for text in whole for line in lines_of(text))
    return [Lesson(line, 0, "ordinary") for line in texts]


def fit(
    name: str, rows: Sequence[Row], *, seed: int = 0, lines: bool = False, penalty: float = PENALTY,
    beside: Sequence[Lesson] = (), reader: Reader | None = None,
) -> LinearDetector:  # fmt: skip
    """Train on the rows, and on each text once more in a disguise, whatever its label.

    Args:
        lines: rows are documents, and those of label 1 carry something that those of label 0 have not.
        beside: what else it is taught.
        reader: keeps n-grams for the next call with the same texts; its seed counts then.
    """
    return teach(
        name, [*lessons_of(rows, lines=lines), *beside], reader or Reader(seed), lines=lines, penalty=penalty
    )


def fold_of(group: str, folds: int) -> int:
    """The same for all rows of a group, wherever it is asked."""
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % folds


def cross_validate(
    rows: Sequence[Row], *, folds: int | Sequence[int] = 5, seed: int = 0, lines: bool = False, untrained: Set[str] = frozenset(),
    disguises: Sequence[str] = (), beside: Sequence[Lesson] = (), reader: Reader | None = None,
) -> Iterator[Judged]:  # fmt: skip
    """Every row's score from a detector that saw no row of its group.

    Args:
        folds: how many, by group; or each row's own.
        untrained: sets that are judged and never trained on.
        disguises: to judge each row in besides; of documents what is planted is put into them.
        beside: taught in every fold.
    """
    reader = reader or Reader(seed)
    places = _places(rows, folds) if isinstance(folds, int) else folds
    planted = planted_lines(rows) if lines and disguises else []
    for fold in sorted(set(places)):
        known, unseen = _parted(rows, places, fold)
        taught = [row for row in known if row.set not in untrained]
        detector = fit("fold", taught, lines=lines, beside=beside, reader=reader)
        rng = random.Random(f"{reader.seed} {fold}")
        for row in unseen:
            yield Judged(row, reader.judged(detector, row.text))
            for way in disguises:
                hidden = (
                    _planted_in_disguise(row.text, planted, way, rng)
                    if lines
                    else disguised(row.text, way, rng)
                )
                yield Judged(row, detector.judge(hidden).score, way)


def unseen_detectors(
    rows: Sequence[Row], *, folds: int = 5, lines: bool = False, untrained: Set[str] = frozenset(), beside: Sequence[Lesson] = (),
    reader: Reader,
) -> Iterator[tuple[LinearDetector, list[Row], list[Row]]]:  # fmt: skip
    """Of each fold: a detector of the others, the rows that it may have seen, and those that it has not."""
    places = _places(rows, folds)
    for fold in sorted(set(places)):
        known, unseen = _parted(rows, places, fold)
        taught = [row for row in known if row.set not in untrained]
        yield fit("fold", taught, lines=lines, beside=beside, reader=reader), known, unseen


def thresholds_beforehand(
    rows: Sequence[Row], rule: Callable[[Sequence[Judged]], float], *, folds: int = 5, lines: bool = False,
    untrained: Set[str] = frozenset(), beside: Sequence[Lesson] = (), reader: Reader,
) -> Iterator[tuple[Judged, float]]:  # fmt: skip
    """Each row's score with the threshold that a rule makes of the other folds alone, by folds within them: what somebody would
    have met who trained on those and put the detector into service."""
    found = unseen_detectors(
        rows, folds=folds, lines=lines, untrained=untrained, beside=beside, reader=reader
    )
    for detector, known, unseen in found:
        inner = cross_validate(
            known, folds=folds - 1, lines=lines, untrained=untrained, beside=beside, reader=reader
        )
        threshold = rule([one for one in inner if one.row.set not in untrained])
        for row in unseen:
            yield Judged(row, reader.judged(detector, row.text)), threshold


def threshold_for(scores: Sequence[float], false_alarms: float) -> float:
    """The lowest threshold at which at most this share of the (benign) scores is above it."""
    if not scores:
        raise InputError("no benign rows to calibrate on", remedy="give rows of label 0, or plain texts")
    ordered = np.sort(np.asarray(scores))[::-1]
    allowed = int(false_alarms * len(ordered) + 1e-9)
    return float(ordered[allowed]) if allowed < len(ordered) else float("-inf")


def threshold_for_each(judged: Sequence[Judged], false_alarms: float) -> float:
    """The lowest threshold at which a further benign row of any set, language and register is flagged with a chance of no more
    than this, by the rows at hand: of n rows in a register (n + 1) times the share, less one, may be above it. Of a few rows
    none may, which promises less: 33 are needed for 3 %. Scores by folds are of other detectors than the one
    that they set the threshold of, and rows of one group are alike, so it is an estimate, and no guarantee.

    Source: split conformal prediction (Vovk et al. 2005), within each group.
    """
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for one in judged:
        if not one.row.label:
            groups[one.row.set, one.row.language, one.row.register].append(one.score)
    if not groups:
        raise InputError("no benign rows to calibrate on", remedy="give rows of label 0, or plain texts")
    return max(
        sorted(scores)[-1 - min(len(scores) - 1, max(0, int(false_alarms * (len(scores) + 1) + 1e-9) - 1))]
        for scores in groups.values()
    )


def _places(rows: Sequence[Row], folds: int) -> list[int]:
    return [fold_of(f"{row.set}{row.group}", folds) for row in rows]


def _parted(rows: Sequence[Row], places: Sequence[int], fold: int) -> tuple[list[Row], list[Row]]:
    """(the other folds, this one)"""
    placed = list(zip(rows, places, strict=True))
    return [row for row, place in placed if place != fold], [row for row, place in placed if place == fold]


def _planted_in_disguise(text: str, planted: Sequence[str], way: str, rng: random.Random) -> str:
    """Attackers hide what they plant, not the document that they found."""
    here = set(lines_of(text)).intersection(planted)
    for line in sorted(here):
        text = text.replace(line, disguised(line, way, rng))
    return text


def _row(raw: dict[str, Any], style: str) -> Row:
    return Row(
        text=raw["text"], label=raw["label"], group=str(raw.get("group", raw.get("id", raw["text"]))),
        set=str(raw.get("set") or ""), language=str(raw.get("language") or raw.get("lang") or ""),
        register=str(raw.get("register") or ""), style=str(raw.get(style) or ""),
    )  # fmt: skip
