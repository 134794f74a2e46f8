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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanok.documents.passages import sentences
from hanok.documents.records import Hit
from hanok.documents.words import terms

LEAST = 0.5  # below it a question counts as unanswerable
RANKED, _READ = 5, 3


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


def measure(query: str, hits: Sequence[Hit], idf: Callable[[str], float]) -> Features:
    """Args: hits: the first `RANKED`, or all there are. idf: of a term, in the collection."""
    if not hits:
        return Features(0.0, 0.0, 0.0)
    following = [hit.score for hit in hits[1:RANKED]]
    lead = hits[0].score - sum(following) / (RANKED - 1)
    return Features(hits[0].score, lead, _covered(query, hits[:_READ], idf))


def _covered(query: str, hits: Sequence[Hit], idf: Callable[[str], float]) -> float:
    weights = {term: idf(term) for term in terms(query)}
    total = sum(weights.values())
    most = 0.0
    for hit in hits:
        said = [set(terms(sentence)) for sentence in sentences(hit.passage.text)]
        for first, second in itertools.zip_longest(said, said[1:], fillvalue=set[str]()):
            most = max(
                most, sum(weight for term, weight in weights.items() if term in first or term in second)
            )
    return most / total if total else 0.0
