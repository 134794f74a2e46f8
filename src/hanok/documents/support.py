"""How likely it is that the passages found hold an answer at all.

A logistic function of three numbers that need no model:

    best    the score of the best passage
    lead    how far it lies above the mean of the next four: a subject that fills the collection lifts all of them
    covered the share of the question's terms, each by how telling it is in the collection, that stand together in two
            neighbouring sentences of the first three passages

The weights were set by hand with the questions of every other article of KorQuAD in view, half of the passages being left out
of the collection. Fitted by `benchmarks/documents.py` to the half that it chooses on, they are no better on the other half
(docs/guides/documents.md has the numbers).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from hanok.documents.passages import divided
from hanok.documents.words import folded, said, surfaces

LEAST = 0.5  # below it a question counts as unanswerable
RANKED, READ = 5, 3


@dataclass(frozen=True, slots=True)
class Features:
    best: float
    lead: float
    covered: float


WEIGHTS = Features(best=9.0, lead=9.0, covered=4.5)
BIAS = -5.6


def support(features: Features) -> float:
    """Between 0 and 1; for a question of which it is as likely as not that its answer is there."""
    logit = (
        BIAS
        + WEIGHTS.best * features.best
        + WEIGHTS.lead * features.lead
        + WEIGHTS.covered * features.covered
    )
    return 1.0 / (1.0 + math.exp(-logit))


def measure(
    query: str, telling: Mapping[int, float], scores: Sequence[float], texts: Sequence[str]
) -> Features:
    """Args:
    telling: the query's terms by number, and how telling each is in the collection.
    scores: of the first `RANKED` passages, or all there are. texts: of the first `READ`.
    """
    if not scores:
        return Features(0.0, 0.0, 0.0)
    lead = scores[0] - sum(scores[1:RANKED]) / (RANKED - 1)
    total, most = sum(telling.values()), 0.0
    wanted = surfaces(query)
    for text in texts:
        here = _inside(folded(text), wanted)
        if _weight(here, telling) > most:
            most = max(most, _together(divided(text), here, telling, most))
    return Features(scores[0], lead, most / total if total else 0.0)


def _inside(plain: str, wanted: Mapping[int, str]) -> dict[int, str]:
    return {code: letters for code, letters in wanted.items() if letters in plain}


def _together(
    sentences: Sequence[str], wanted: Mapping[int, str], telling: Mapping[int, float], least: float
) -> float:
    """The most that terms in two neighbouring sentences weigh together; `least` if no two weigh more.

    Letters are looked for first, which is quick and finds too much at worst; words then where it may matter.
    """
    may = [_inside(folded(sentence), wanted).keys() for sentence in sentences]
    pairs = [(_weight(first | second, telling), place) for place, (first, second) in enumerate(_pairs(may))]
    known: dict[int, set[int]] = {}
    for bound, place in sorted(pairs, reverse=True):
        if bound <= least:
            break
        both: set[int] = set()
        for one in range(place, min(place + 2, len(sentences))):
            if one not in known:
                known[one] = said(sentences[one], wanted.values())
            both |= known[one] & wanted.keys()
        least = max(least, _weight(both, telling))
    return least


def _pairs(may: Sequence[Set[int]]) -> Iterator[tuple[Set[int], Set[int]]]:
    return itertools.zip_longest(may, may[1:], fillvalue=frozenset[int]())


def _weight(codes: Iterable[int], telling: Mapping[int, float]) -> float:
    return sum([telling[code] for code in sorted(codes)])  # in one order: what is asked twice has one answer
