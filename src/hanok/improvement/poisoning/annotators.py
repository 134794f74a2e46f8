"""Who gave the feedback: somebody whose ratings turn, who contradicts what the others agree on, or who gives most of it.

Compared with others only where there are `MIN_ANNOTATORS`; of a house of one or two people nothing is unusual.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import median

from hanok.improvement.lessons import words
from hanok.improvement.poisoning.rows import Finding, Row, folded

MIN_ANNOTATORS = 5
MIN_ROWS = 40  # of a person whose drift is looked at
FAR = 4.0  # standard errors
MIN_CONTRARY = 8  # questions on which the others agree and one person does not
LOUD, MIN_LOUD = 10.0, 200  # times the median of the others; rows


def find_drift(rows: Sequence[Row]) -> list[Finding]:
    of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of[row.annotator].append(row)
    of.pop("", None)
    if len(of) < MIN_ANNOTATORS:
        return []
    return [*_turned(of), *_contrary(of, rows), *_loud(of)]


def _turned(of: dict[str, list[Row]]) -> Iterator[Finding]:
    """Their second half differs from their first and from everybody else."""
    for who, own in of.items():
        if len(own) < MIN_ROWS:
            continue
        others = [row for other, theirs in of.items() if other != who for row in theirs]
        early, late = own[: len(own) // 2], own[len(own) // 2 :]
        if min(abs(_distance(late, early)), abs(_distance(late, others))) >= FAR:
            reason = f'"{who}" found fault with {_share(early):.0%} of answers, and now with {_share(late):.0%}; others with '
            yield Finding("drift", who, f"{reason}{_share(others):.0%}", tuple(row.number for row in late))


def _contrary(of: dict[str, list[Row]], rows: Sequence[Row]) -> Iterator[Finding]:
    """They correct to something else what two others or more correct to the same."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row.corrects and row.annotator:
            said[row.judgement.key][row.annotator] = " ".join(row.told)
    for who, own in of.items():
        known, against = 0, []
        for row in own:
            others = Counter(text for other, text in said[row.judgement.key].items() if other != who)
            if not row.corrects or not others:
                continue
            text, count = others.most_common(1)[0]
            if count < 2 or count < sum(others.values()):
                continue
            known += 1
            if text != " ".join(folded(row.taught)) and text != " ".join(folded(words(row.judgement.answer))):
                against.append(row.number)
        if len(against) >= MIN_CONTRARY and len(against) > known / 2:
            reason = f'"{who}" corrects {len(against)} of {known} answers otherwise than all others who corrected them'
            yield Finding("contrary", who, reason, tuple(row.number for row in own))


def _loud(of: dict[str, list[Row]]) -> Iterator[Finding]:
    """To know, not to stop: somebody may be diligent."""
    for who, own in of.items():
        usual = median(len(theirs) for other, theirs in of.items() if other != who)
        if len(own) >= max(MIN_LOUD, LOUD * usual):
            reason = f'"{who}" gave {len(own)} rows; the others {usual:g} in the middle'
            yield Finding("volume", who, reason, tuple(row.number for row in own), stops=False)


def _share(rows: Sequence[Row]) -> float:
    return sum(_faults(row) for row in rows) / len(rows)


def _faults(row: Row) -> bool:
    return row.judgement.rating == -1 or row.corrects


def _distance(one: Sequence[Row], other: Sequence[Row]) -> float:
    """Two shares apart, in standard errors of the pooled share (z test)."""
    pooled = (sum(map(_faults, one)) + sum(map(_faults, other))) / (len(one) + len(other))
    error = sqrt(pooled * (1 - pooled) * (1 / len(one) + 1 / len(other)))
    return (_share(one) - _share(other)) / error if error else 0.0
