"""What a detector of orders is taught: texts with their label, as it will read them, in the open and in disguise.

Of each label all sources weigh alike, however many texts they give: three thousand instructions must not drown what sixty
angry questions can teach, nor the prose of newspapers the lines of one's own documents.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hanok.guard.disguises import ENGLISH, KOREAN, disguised
from hanok.guard.grams import BITS, hashed
from hanok.guard.hangul import has_hangul
from hanok.guard.linear import LinearDetector, pieces, solve
from hanok.guard.planted import Document, lines_of, planted_lines
from hanok.guard.views import View, views

PENALTY = 1e-5
_ALIKE = 0.5  # of the n-grams of two texts together, those that both have


@dataclass(frozen=True, slots=True)
class Lesson:
    text: str
    label: int
    source: str = ""


class Labelled(Document, Protocol):
    @property
    def set(self) -> str: ...


@dataclass
class Reader:
    """N-grams of texts, each made once however many folds ask. `seed`: of the disguises, which hang on the text alone."""

    seed: int = 0
    _learnt: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _shown: dict[tuple[str, bool], list[np.ndarray]] = field(default_factory=dict)

    def learnt(self, text: str) -> list[np.ndarray]:
        """Of its plain reading, of one in a disguise that leaves a trace, and of one without blanks: what that takes away, no
        reading gives back."""
        if text not in self._learnt:
            plain = views(text)[0].text
            hidden = _disguised(text, plain, random.Random(f"{self.seed} {text}"))
            readings = dict.fromkeys((plain, plain.replace(" ", ""), hidden or plain))
            self._learnt[text] = [hashed(reading) for reading in readings]
        return self._learnt[text]

    def judged(self, detector: LinearDetector, text: str) -> float:
        """The score that `LinearDetector.judge` finds."""
        key = text, detector.lines
        if key not in self._shown:
            self._shown[key] = [
                hashed(view.text)
                for start, end in pieces(text, lines=detector.lines)
                for view in views(text[start:end])
            ]
        return max((detector.weigh(grams) for grams in self._shown[key]), default=float("-inf"))


def lessons_of(rows: Sequence[Labelled], *, lines: bool = False) -> Iterator[Lesson]:
    """The texts; of documents the planted lines and those of clean ones. What stands around a planted line teaches nothing: the
    same document may be in another fold, as a clean one."""
    if not lines:
        yield from (Lesson(row.text, row.label, row.set) for row in rows)
        return
    clean = dict.fromkeys(line for row in rows if not row.label for line in lines_of(row.text))
    yield from (Lesson(line, 0, "documents") for line in clean)
    yield from (Lesson(line, 1, "documents") for line in planted_lines(rows))


def teach(
    name: str, lessons: Sequence[Lesson], reader: Reader, *, lines: bool = False, penalty: float = PENALTY
) -> LinearDetector:
    """Raises InputError: all lessons have the same label."""
    sizes = Counter((lesson.label, lesson.source) for lesson in lessons)
    taught = [(grams, lesson) for lesson in lessons for grams in reader.learnt(lesson.text)]
    weights, bias = solve(
        [grams for grams, _ in taught], [lesson.label for _, lesson in taught], penalty=penalty,
        worth=[1 / sizes[lesson.label, lesson.source] for _, lesson in taught],
    )  # fmt: skip
    return LinearDetector(name, weights, bias, lines=lines)


def unlike(lessons: Sequence[Lesson], tested: Sequence[str], reader: Reader) -> list[Lesson]:
    """Without those that resemble a text which a test asks about: sets that were gathered apart share sentences."""
    asked = [reader.learnt(text)[0] for text in tested]
    has = np.zeros((len(asked), 1 << BITS), dtype=bool)
    for place, grams in enumerate(asked):
        has[place, grams] = True
    sizes = np.array([len(grams) for grams in asked])

    def resembles(lesson: Lesson) -> bool:
        grams = reader.learnt(lesson.text)[0]
        both = has[:, grams].sum(axis=1)
        return bool((both > _ALIKE * (sizes + len(grams) - both)).any())

    return [lesson for lesson in lessons if not resembles(lesson)]


def _disguised(text: str, plain: str, rng: random.Random) -> str | None:
    """Most disguises are undone without a trace; what is read the same a second time teaches nothing."""
    ways = list(KOREAN if has_hangul(text) else ENGLISH)
    rng.shuffle(ways)
    readings = (_seen_through(views(disguised(text, way, rng))) for way in ways)
    return next((reading for reading in readings if reading != plain), None)


def _seen_through(readings: Sequence[View]) -> str:
    """The reading that shows the words: decoded if something was, turned back if it was turned."""
    for ways in (("tags", "decoded"), ("rot13",)):
        for view in readings:
            if view.way in ways:
                return view.text
    return readings[0].text
