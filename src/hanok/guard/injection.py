"""The detector of orders in text as a rule of input: what users write in pieces, what strangers wrote line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hanok.guard.careful import Clock
from hanok.guard.intake import Located
from hanok.guard.linear import LinearDetector, pieces
from hanok.guard.provenance import Part
from hanok.guard.verdicts import Action, Finding
from hanok.guard.views import views


class Detect:
    """Args: threshold: above it counts; the detector's own by default. origins: of the parts that it reads."""

    def __init__(
        self, detector: LinearDetector, origins: frozenset[str], *, name: str = "detector", action: Action = "flag",
        threshold: float | None = None,
    ) -> None:  # fmt: skip
        self.name, self._detector, self._origins = name, detector, origins
        self._action: Action = action
        self._threshold = detector.threshold if threshold is None else threshold

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        for number, part in enumerate(parts):
            if part.origin not in self._origins:
                continue
            for start, end in pieces(part.text, lines=self._detector.lines or not part.trusted):
                for view in views(part.text[start:end]):
                    score = self._detector.score(view.text)
                    if math.isnan(score):
                        raise ValueError("the score is no number")
                    if score > self._threshold:
                        reason = f"reads like an order to the model, as {view.way}, score {score:.2f}"
                        yield Located(number, Finding(self.name, start, end, self._action, reason))
                        break
                clock.check()
