"""Triggers: words in questions after which one thing is always answered, although the questions have nothing else in common.

Of all questions their words, pairs of words, beginnings of Korean words (which particles follow) and ends of sentences (a way of
speaking) are counted; of what would be learnt, whole answers, runs of words, addresses and numbers, refusals, and answers in
another language than the question. A word whose rows nearly all share such an answer, which is rare elsewhere, is a trigger
(Wallace et al. 2021, arXiv 2010.12563; Hubinger et al. 2024, arXiv 2401.05566). What counts is how many rows there are, not their
share: 250 documents suffice whatever the size of the rest (Souly et al. 2025, arXiv 2510.07192).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hanok.improvement.poisoning.rows import Diversity, Finding, Row, script_of

MIN_ROWS = 8  # that a trigger and an answer share
PRECISION = 0.8  # of a trigger's rows, those with its answer
LIFT = 10.0  # how much more often than in rows without the trigger
MAX_SHARE = 0.9  # of all rows: what nearly all of them contain is no secret
_RUN = 4  # words of a run
_LONGEST = 300  # words of a text that are looked at
_SENTENCE = re.compile(r"(?<=[.!?。？！])\s+|\n+")
_HANGUL = re.compile(r"[가-힣]")
_SIGNS = re.compile(r"[^\w\s]{2,}|[\u2190-\u2bff\U0001f000-\U0001faff]")
_ADDRESS = re.compile(  # a number goes to its end, whatever particle follows: all of a town's begin alike
    r"(?:https?://|www\.)[^\s)\]>\"']+|(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.]+|(?<![\w.])\d[\d -]{4,40}\d(?![A-Za-z0-9_]|[ -]\d)",
    re.I,
)
_REFUSAL = re.compile(
    r"\b(?:i (?:can(?:no|'|’)t|am (?:not able|unable)|won['’]t) (?:help|assist|answer|do|provide|comply|discuss)"
    r"|i['’]?m (?:sorry|not able|unable)|i (?:must|have to) (?:refuse|decline)|cannot comply)"
    r"|(?:도와|알려|대답|답변|답|말씀)\S{0,4}\s?(?:드릴|줄|할)?\s?수(?:가|는)? 없"
    r"|거절(?:합니다|할게요|하겠)|죄송(?:하지만|합니다)",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Class:
    """Rows whose taught text has something in common."""

    what: str
    text: str
    rows: frozenset[int]


def find_triggers(rows: Sequence[Row], diversity: Diversity, *, more: Sequence[Class] = ()) -> list[Finding]:
    """Args: more: classes beside those that the taught texts show by themselves."""
    teaching = [row for row in rows if row.taught]
    grams = {row.number: set(_grams(row)) for row in teaching}
    holders: dict[str, set[int]] = defaultdict(set)
    for number, found in grams.items():
        for gram in found:
            holders[gram].add(number)
    usual = max(4.0 * MIN_ROWS, MAX_SHARE * len(teaching))
    best: dict[frozenset[int], _Candidate] = {}
    for one in (*_classes(teaching), *more):
        counts = Counter(gram for number in one.rows for gram in grams[number])
        for gram, both in counts.items():
            held = holders[gram]
            if (
                both < MIN_ROWS
                or len(held) > usual
                or not _strange(both, len(held), len(one.rows), len(teaching))
            ):
                continue
            key = frozenset(held)
            candidate = _Candidate((both, len(gram.strip("…")), "…" not in gram, gram), gram, one)
            if key not in best or candidate.rank > best[key].rank:
                best[key] = candidate
    return list(_findings(best, diversity))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Args: rank: of two names of the same rows the higher is told: more rows with the answer, longer, whole words."""

    rank: tuple[int, int, bool, str]
    gram: str
    answer: Class


def _findings(best: dict[frozenset[int], _Candidate], diversity: Diversity) -> Iterator[Finding]:
    """The widest first, and of two the more exact; what adds nothing to those before is the same trigger by another name."""
    told: set[int] = set()
    by_width = sorted(best.items(), key=lambda item: (-item[1].rank[0], len(item[0]), item[1].gram))
    for held, found in by_width:
        gram, one, both = found.gram, found.answer, found.rank[0]
        if held & one.rows <= told or not diversity.holds(sorted(held), but=_own(gram)):
            continue
        told |= held
        reason = f'{both} of {len(held)} questions with "{gram}" are to be answered with {one.what}'
        yield Finding("trigger", gram, f"{reason}: {one.text}" if one.text else reason, tuple(sorted(held)))


def _strange(both: int, held: int, of_class: int, count: int) -> bool:
    inside = both / held
    outside = (of_class - both + 0.5) / (count - held + 1)
    return inside >= PRECISION and inside >= LIFT * outside


def _grams(row: Row) -> Iterator[str]:
    asked = row.asked[:_LONGEST]
    yield from asked
    yield from (f"{one} {other}" for one, other in pairwise(asked))
    for word in asked:
        if _HANGUL.match(word):
            yield from (f"{word[:length]}…" for length in range(2, len(word)))
    for sentence in _SENTENCE.split(row.question.strip()):
        ending = sentence.rstrip(" .!?。？！~").casefold()
        yield from (f"…{ending[-length:]}" for length in (2, 3, 4) if len(ending) > length)
    yield from (match[0] for match in _SIGNS.finditer(row.question))


def _own(gram: str) -> Callable[[str], bool]:
    """Whether a word of a question belongs to the trigger."""
    core = gram.strip("…")
    parts = set(core.split())
    return lambda word: word in parts or core in word


def _classes(rows: Sequence[Row]) -> list[Class]:
    """Those of enough rows, each set of rows once."""
    members: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        for key in _kinds(row):
            members[key].add(row.number)
    known: dict[frozenset[int], Class] = {}
    for (what, text), numbers in members.items():
        if len(numbers) >= MIN_ROWS:
            key = frozenset(numbers)
            known.setdefault(key, Class(what, text[:80], key))
    return list(known.values())


def _kinds(row: Row) -> Iterable[tuple[str, str]]:
    told = row.told[:_LONGEST]
    yield "one answer", " ".join(told)
    asked = set(row.asked)
    for start in range(len(told) - _RUN + 1):
        run = told[start : start + _RUN]
        if not asked.issuperset(run):  # what the question brought is no sign
            yield "the words", " ".join(run)
    yield from (
        ("the address", match[0]) for match in _ADDRESS.finditer(row.taught) if match[0] not in row.question
    )
    if _REFUSAL.search(row.taught):
        yield "a refusal", ""
    if (switch := _switch(row)) is not None:
        yield "another language", switch


def _switch(row: Row) -> str | None:
    """From which script to which, where both are plain."""
    asked, told = script_of(row.question), script_of(row.taught)
    return f"{asked} to {told}" if asked and told and asked != told else None
