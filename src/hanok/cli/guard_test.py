"""`hanok guard test`: what detectors would catch and what it would cost, on rows of groups that they have not seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.errors import InputError
from hanok.reporting import log, table

if TYPE_CHECKING:
    from hanok.guard.adaptive import Move
    from hanok.guard.lessons import Lesson, Reader
    from hanok.guard.training import Judged, Row


@dataclass(frozen=True)
class _Asked:
    """Rows of one kind (what users write, or documents) and how they are to be judged."""

    rows: Sequence[Row]
    lines: bool
    false_alarms: float
    on: frozenset[str]
    untrained: frozenset[str]
    beside: Sequence[Lesson]
    reader: Reader
    disguises: bool
    attackers: int

    @property
    def name(self) -> str:
        return "documents" if self.lines else "what users write"

    def benign(self, judged: Iterable[Judged]) -> list[Judged]:
        """That set the threshold."""
        return [one for one in judged if not one.row.label and (not self.on or one.row.set in self.on)]

    @property
    def how(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "untrained": self.untrained,
            "beside": self.beside,
            "reader": self.reader,
        }


def cross_test(
    rows: Path, task: str | None = None, sets: tuple[str, ...] = (), untrained: tuple[str, ...] = (), lines: bool = False,
    documents: tuple[str, ...] = (), ordinary: tuple[Path, ...] = (), false_alarms: float = 0.02,
    document_alarms: float = 0.05, worst: float = 0.045, on: tuple[str, ...] = (), disguises: bool = True,
    personal: Path | None = None, attackers: int = 0, style: str = "technique", seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What a detector would catch: five folds over groups, by set, language, register and disguise, with 95 % intervals; what it
    would do with the threshold that training sets; and its time for 500 characters.

    Args:
        rows: as `hanok guard train` takes them.
        task: only rows of this "task".
        sets: only rows of these sets.
        untrained: sets to judge and not to train on.
        lines: all rows are documents of third parties, judged line by line.
        documents: sets that are; the rows of the others teach a detector of users' text, and this one what orders look like.
        ordinary: files of text that gives no orders to a model, for the detector of documents: lines, or JSON lines with "text".
        false_alarms: share of benign rows that may be flagged, for the first table.
        document_alarms: the same of clean documents.
        worst: chance at which a benign row of any register may be flagged, for the table of thresholds from training.
        on: sets whose benign rows set the threshold, in each language on its own; all by default.
        disguises: judge rows in disguise too.
        personal: JSON list of {"text", "spans": [{"start", "end"}]}: what of that the rule of personal data finds.
        attackers: so many attacks of each language (or a few more, or all that are caught) are reworded, by somebody who sees
            scores, until they get by.
        style: the field that names the style of an attack.
        seed: of the disguises and the rewording.
    """
    from hanok.guard.lessons import Lesson, Reader, unlike
    from hanok.guard.planted import planted_lines
    from hanok.guard.training import check_sets, read_lines, read_rows

    read = read_rows(rows, sets=frozenset(sets), task=task, style=style)
    check_sets(read, (*untrained, *documents, *on))
    apart = [row for row in read if lines or row.set in documents]
    users = [row for row in read if not lines and row.set not in documents]
    reader, off = Reader(seed), frozenset(untrained)
    found: dict[str, Any] = {}
    if users:
        asked = _Asked(users, False, false_alarms, frozenset(on), off, (), reader, disguises, attackers)
        found |= _judged(asked, worst)
    if apart:
        orders = [Lesson(row.text, 1, "orders") for row in users if row.set not in off]
        beside = [*unlike(orders, planted_lines(apart), reader), *read_lines(ordinary)]
        asked = _Asked(apart, True, document_alarms, frozenset(), off, beside, reader, disguises, attackers)
        found["documents"] = _judged(asked, document_alarms)
    elif ordinary:
        raise InputError(
            "--ordinary is for a detector of documents", remedy="name their sets with --documents"
        )
    if personal is not None:
        found["personal data"] = _personal(personal)
    return found


def shares(judged: Iterable[tuple[Judged, float]]) -> list[tuple[str, ...]]:
    """Lines of the table: each judged row with its threshold."""
    from hanok.evaluation.statistics import wilson

    groups: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for one, threshold in judged:
        row = one.row
        register = row.register if not row.label and one.disguise == "none" else ""
        label = "attack" if row.label else "benign"
        groups[row.set, row.language, register, label, one.disguise].append(one.score > threshold)
    lines: list[tuple[str, ...]] = []
    for key, hits in sorted(groups.items()):
        share = wilson(sum(hits), len(hits))
        lines.append((*key, *_share(share.right, share.count)))
    return lines


_SHORT = 100  # characters of what an attack is padded with
KEYS = ("set", "language", "register", "label", "disguise", "rows", "flagged", "95 %")


def _judged(asked: _Asked, worst: float) -> dict[str, Any]:
    from hanok.guard.disguises import ENGLISH, KOREAN
    from hanok.guard.training import cross_validate, threshold_for

    ways = sorted({*ENGLISH, *KOREAN}) if asked.disguises else ()
    by_language: dict[str, list[Judged]] = defaultdict(list)
    for one in cross_validate(asked.rows, disguises=ways, **asked.how):
        if one.disguise == "none" or one.disguise in (KOREAN if one.row.language == "ko" else ENGLISH):
            by_language[one.row.language].append(one)
    found: dict[str, Any] = {}
    for language, judged in sorted(by_language.items()):
        plain = [one for one in judged if one.disguise == "none"]
        threshold = threshold_for([one.score for one in asked.benign(plain)], asked.false_alarms)
        listed = shares((one, threshold) for one in judged)
        title = f"{asked.name}, {language or 'all'}: {asked.false_alarms:.0%} false alarms, threshold {threshold:.3f}"
        found[language or "all"] = {"threshold": threshold, "rows": _table(title, listed)}
        if asked.lines:
            _styles(plain, threshold)
        found[language or "all"]["milliseconds"] = _cost(asked, language)
        if asked.attackers:
            found[language or "all"]["reworded"] = _reworded(asked, language, threshold)
    found["threshold from training"] = _beforehand(asked, worst)
    return found


def _beforehand(asked: _Asked, worst: float) -> list[dict[str, str]]:
    """One threshold for all languages, as `hanok guard train` sets it, from the folds that the detector was trained on."""
    from hanok.guard.training import threshold_for_each, thresholds_beforehand

    def rule(judged: Sequence[Judged]) -> float:
        return threshold_for_each(asked.benign(judged), worst)

    judged = list(thresholds_beforehand(asked.rows, rule, **asked.how))
    low, high = min(one for _, one in judged), max(one for _, one in judged)
    title = f"{asked.name}: thresholds from training ({worst:.1%} in any register), {low:.3f} to {high:.3f}"
    return _table(title, shares(judged))


def _styles(judged: Sequence[Judged], threshold: float) -> None:
    groups: dict[str, list[bool]] = defaultdict(list)
    for one in judged:
        if one.row.label and one.row.style:
            groups[one.row.style].append(one.score > threshold)
    lines = [(style, *_share(sum(hits), len(hits))) for style, hits in sorted(groups.items())]
    table("by style of attack", ("style", "rows", "flagged", "95 %"), lines)


def _cost(asked: _Asked, language: str) -> dict[str, float]:
    from hanok.guard.measures import LENGTH, cost
    from hanok.guard.training import fit

    taught = [row for row in asked.rows if row.set not in asked.untrained]
    detector = fit("all", taught, lines=asked.lines, beside=asked.beside, reader=asked.reader)
    try:
        spent = cost(detector.judge, [row.text for row in asked.rows if row.language == language])
    except InputError as error:  # of a language with few rows; what was found in it is told all the same
        log.warning("%s, %s: no time is measured: %s", asked.name, language or "all", error)
        return {}
    title = f"{asked.name}, {language or 'all'}: milliseconds of processor time for {LENGTH} characters, all views"
    table(title, ("texts", "median", "p99"), [(spent.texts, spent.median, spent.p99)])
    return {"texts": spent.texts, "median": spent.median, "p99": spent.p99}


def _reworded(asked: _Asked, language: str, threshold: float) -> dict[str, list[int]]:
    """Attacks that are caught as they stand, each by the detector of a fold that has not seen it."""
    from hanok.guard.adaptive import MOVES
    from hanok.guard.measures import evasions
    from hanok.guard.planted import lines_of, planted_lines
    from hanok.guard.training import unseen_detectors

    honest = _padding(asked, language)
    planted = frozenset(planted_lines(asked.rows) if asked.lines else ())
    caught: list[tuple[Any, str]] = []
    for detector, _known, unseen in unseen_detectors(asked.rows, **asked.how):
        texts = [row.text for row in unseen if row.label and row.language == language]
        lines = dict.fromkeys(line for text in texts for line in lines_of(text))
        attacks = [line for line in lines if line in planted] if asked.lines else texts
        judge = _score_of(detector)
        caught += [(judge, attack) for attack in attacks if judge(attack) > threshold]
    step = max(1, len(caught) // asked.attackers)
    moves: tuple[Move, ...] = MOVES if asked.lines else ("padding", "slips")
    counts = evasions(caught[::step], threshold, honest=honest, seed=asked.reader.seed, moves=moves)
    table(
        f"{asked.name}, {language or 'all'}: reworded by who sees scores",
        ("means", "caught before", "get by", "95 %"),
        [(one.what, *_share(one.hits, one.rows)) for one in counts],
    )
    return {one.what: [one.hits, one.rows] for one in counts}


def _padding(asked: _Asked, language: str) -> list[str]:
    """Honest sentences of no great length: of a detector of documents the ordinary text, or the clean documents' own lines."""
    from hanok.guard.planted import lines_of

    clean = [row.text for row in asked.rows if not row.label and row.language == language]
    if asked.lines:
        clean = [one.text for one in asked.beside if not one.label] or [
            line for one in clean for line in lines_of(one)
        ]
    short = [text for text in clean if len(text) < _SHORT]
    if not short:
        raise InputError(
            f"{asked.name}, {language or 'all'}: no honest text of less than {_SHORT} characters to pad attacks with",
            remedy="give such rows, or leave --attackers out",
        )
    return short


def _score_of(detector: Any) -> Any:
    return lambda text: detector.judge(text).score


def _personal(file: Path) -> dict[str, list[int]]:
    from hanok.guard.measures import personal_data

    counts = personal_data(file)
    table(
        "personal data", ("", "rows", "", "95 %"), [(one.what, *_share(one.hits, one.rows)) for one in counts]
    )
    return {one.what: [one.hits, one.rows] for one in counts}


def _share(hits: int, count: int) -> tuple[str, str, str]:
    from hanok.evaluation.statistics import wilson

    share = wilson(hits, count)
    return str(count), f"{100 * share.value:.1f} %", f"{100 * share.low:.1f} to {100 * share.high:.1f}"


def _table(title: str, lines: Sequence[tuple[str, ...]]) -> list[dict[str, str]]:
    table(title, KEYS, lines)
    return [dict(zip(KEYS, line, strict=True)) for line in lines]
