"""Two stages as one rule of input: n-grams read everything, and what they are not sure of is put to a probe on the served model.

Below the band a passage passes, above it counts, and within it both scores together decide, in the mixture that training found;
so the model reads what is in doubt alone. It gets the reading that the first stage minded most: what was written in base64 is
shown to it in the open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hanok.guard.careful import Clock, Unfit
from hanok.guard.intake import Located
from hanok.guard.linear import LinearDetector, pieces
from hanok.guard.probe import Probe, Vectors
from hanok.guard.provenance import Part
from hanok.guard.verdicts import Action, Finding
from hanok.guard.views import views

_AT_ONCE = 8  # passages in one pass of the model; between two passes others have their turn


@dataclass(frozen=True, slots=True)
class _Doubt:
    score: float
    part: int
    start: int
    end: int
    reading: str


class SecondLook:
    """A rule.

    Args:
        vectors: of the model that is to read this request; None where there are none.
        origins: of the parts that it reads. band, threshold: the probe's own by default.
        most: passages in doubt that the model reads, the most suspicious first; that there were more is flagged.
    """

    def __init__(
        self, probe: Probe, first: LinearDetector, vectors: Vectors | None, origins: frozenset[str], *, name: str = "probe",
        action: Action = "flag", band: tuple[float, float] | None = None, threshold: float | None = None, most: int = 32,
    ) -> None:  # fmt: skip
        self.name, self._probe, self._first = name, probe, first
        self._vectors, self._origins = vectors, origins
        self._action: Action = action
        self._low, self._high = probe.band if band is None else band
        self._threshold, self._most = probe.threshold if threshold is None else threshold, most

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        """Raises Unfit: there are passages in doubt, and no vectors of the probe's model."""
        doubts: list[_Doubt] = []
        for one in self._first_looks(parts, clock):
            if one.score > self._high:
                yield self._found(one, f"reads like an order to the model, score {one.score:.2f}")
            elif one.score >= self._low:
                doubts.append(one)
        doubts.sort(key=lambda one: -one.score)
        if len(doubts) > self._most:
            reason = f"{len(doubts)} passages in doubt, {self._most} of them looked at"
            yield Located(None, Finding(self.name, 0, 0, "flag", reason))
        for place in range(0, min(len(doubts), self._most), _AT_ONCE):
            together = doubts[place : min(place + _AT_ONCE, self._most)]
            for one, score in zip(together, self._second_looks(together), strict=True):
                if math.isnan(score):
                    raise ValueError("the score is no number")
                by_words, by_model = self._probe.mix
                if by_words * one.score + by_model * score > self._threshold:
                    reason = f"reads like an order to the model, score {one.score:.2f} by its words, {score:.2f} by the model"
                    yield self._found(one, reason)
            clock.check()

    def _first_looks(self, parts: Sequence[Part], clock: Clock) -> Iterator[_Doubt]:
        for number, part in enumerate(parts):
            if part.origin not in self._origins:
                continue
            for start, end in pieces(part.text, lines=self._first.lines or not part.trusted):
                scores = [(self._first.score(view.text), view.text) for view in views(part.text[start:end])]
                if any(math.isnan(score) for score, _ in scores):
                    raise ValueError("the score is no number")
                score, reading = max(scores)
                yield _Doubt(score, number, start, end, reading)
                clock.check()

    def _second_looks(self, doubts: Sequence[_Doubt]) -> list[float]:
        if self._vectors is None:
            raise Unfit("no hidden vectors here")
        if self._vectors.model != self._probe.model:
            raise Unfit("the probe belongs to another model")
        return self._probe.scores(
            self._vectors.of([one.reading for one in doubts], self._probe.layers)
        ).tolist()

    def _found(self, one: _Doubt, reason: str) -> Located:
        return Located(one.part, Finding(self.name, one.start, one.end, self._action, reason))
