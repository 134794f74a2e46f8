"""Why a detector said what it said: the words of the text that raised the score, and those that lowered it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hanok.guard.linear import LinearDetector
from hanok.guard.views import views


@dataclass(frozen=True, slots=True)
class Part:
    """A word of the reading, and how much the score falls without it."""

    word: str
    worth: float


def explain(detector: LinearDetector, text: str) -> tuple[str, str, list[Part]]:
    """Way and text of the worst reading of the worst piece, and its words by their worth, the highest first."""
    hit = detector.judge(text)
    reading = next(
        (view for view in views(text[hit.start : hit.end]) if detector.score(view.text) == hit.score), None
    )
    if reading is None:
        return hit.way, "", []
    words = list(re.finditer(r"\S+", reading.text))
    parts = []
    for match in words:
        rest = (reading.text[: match.start()] + reading.text[match.end() :]).replace("  ", " ").strip()
        parts.append(Part(match[0], hit.score - detector.score(rest) if rest else hit.score - detector.bias))
    return reading.way, reading.text, sorted(parts, key=lambda part: -part.worth)
