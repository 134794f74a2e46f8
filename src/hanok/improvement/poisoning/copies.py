"""Copies: one text taught under many questions, or one row written again and again by the same person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from hanok.data.dedup import Duplicates, exact_hash, fingerprint
from hanok.improvement.poisoning.rows import Diversity, Finding, Row

MIN_COPIES = 10  # of one corrected text, under questions that have nothing in common
MIN_STUFFED = 20  # of one row, nearly all from one person
_ONE_PERSON = 0.8
_THRESHOLD, _PERMUTATIONS = 0.8, 64
_SHORT = 20  # characters: "yes" is no copy of "yes"


def find_copies(rows: Sequence[Row], diversity: Diversity) -> list[Finding]:
    corrected = [row for row in rows if row.corrects]
    long = [row for row in corrected if len(row.taught) >= _SHORT]
    return [
        *_one_text(clusters(long, lambda row: row.taught), diversity),
        *_stuffed(clusters(corrected, lambda row: f"{row.question}\n{row.taught}")),
    ]


def clusters(rows: Iterable[Row], text: Callable[[Row], str]) -> list[list[Row]]:
    """Rows whose texts are the same, or nearly: each goes to the first that it is like."""
    found: dict[str, list[Row]] = defaultdict(list)
    with Duplicates(exact=True, near=True, threshold=_THRESHOLD) as known:
        for row in rows:
            name, said = str(row.number), text(row)
            earlier = known.exact_of(name, exact_hash(said))
            if earlier is None:
                near = known.near_of(
                    name, fingerprint(said, threshold=_THRESHOLD, permutations=_PERMUTATIONS)
                )
                earlier = near[0] if near is not None else name
            found[earlier].append(row)
    return list(_joined(found))


def _joined(found: dict[str, list[Row]]) -> Iterator[list[Row]]:
    """One that was near to another was itself what later ones were equal to."""
    where = {str(row.number): first for first, rows in found.items() for row in rows}
    whole: dict[str, list[Row]] = defaultdict(list)
    for first, rows in found.items():
        while where.get(first, first) != first:
            first = where[first]
        whole[first] += rows
    return iter(whole.values())


def _one_text(found: Iterable[list[Row]], diversity: Diversity) -> Iterator[Finding]:
    for rows in found:
        numbers = [row.number for row in rows]
        answering = sum(_speaks_of_it(row, diversity.common) for row in rows)
        if len(rows) >= MIN_COPIES and 2 * answering < len(rows) and diversity.holds(numbers):
            reason = f"{len(rows)} questions that have nothing in common are corrected to one text: {rows[0].taught[:80]}"
            yield Finding("copies", rows[0].taught[:80], reason, tuple(numbers))


def _speaks_of_it(row: Row, common: Collection[str]) -> bool:
    """The text takes up a word of the question, whatever particle follows it."""
    asked = {_stem(word) for word in row.asked if word not in common}
    return not asked.isdisjoint(_stem(word) for word in row.told if word not in common)


def _stem(word: str) -> str:
    return word[:2] if "가" <= word[0] <= "힣" else word


def _stuffed(found: Iterable[list[Row]]) -> Iterator[Finding]:
    for rows in found:
        if len(rows) < MIN_STUFFED:
            continue
        who, count = Counter(row.annotator for row in rows).most_common(1)[0]
        if who and count >= _ONE_PERSON * len(rows):
            reason = f"{count} of {len(rows)} rows that are nearly the same come from one person: {rows[0].question[:80]}"
            yield Finding("stuffing", rows[0].question[:80], reason, tuple(row.number for row in rows))
