"""Kinds of harm in a text (hate, violence, ...), each with its own weights, threshold and action: the linear detector of
`hanok.guard.linear` with one column of weights a category, over the same readings and n-grams.

    C  categories    G  distinct n-grams of a reading
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from hanok.errors import InputError
from hanok.guard.careful import Clock
from hanok.guard.grams import BITS, FORMAT, check_format, hashed
from hanok.guard.intake import Located
from hanok.guard.linear import PIECE, pieces
from hanok.guard.provenance import Part
from hanok.guard.verdicts import Action, Finding
from hanok.guard.views import views
from hanok.guard.windows import Windowed

_SENTENCE = 40  # characters that a sentence of an answer has before it is judged on its own
_ORDER: Sequence[Action] = ("flag", "redact", "block")


@dataclass(frozen=True)
class HarmClassifier:
    """`weights` [2**BITS, C] float32, `biases` [C], `thresholds` [C]: above it counts."""

    categories: tuple[str, ...]
    weights: np.ndarray
    biases: np.ndarray
    thresholds: np.ndarray

    def scores(self, text: str) -> np.ndarray:
        """The worst reading's, category by category: [C]; of an empty text, minus infinity. The text is one piece."""
        worst = np.full(len(self.categories), -np.inf)
        for view in views(text):
            grams = hashed(view.text)
            if len(grams):
                worst = np.maximum(
                    worst, self.weights[grams].sum(axis=0) / math.sqrt(len(grams)) + self.biases
                )
        return worst

    def judge(self, text: str) -> np.ndarray:
        """The worst piece's: [C]."""
        every = [self.scores(text[start:end]) for start, end in pieces(text)]
        return np.max(every, axis=0) if every else np.full(len(self.categories), -np.inf)

    def with_thresholds(self, thresholds: Sequence[float] | np.ndarray) -> HarmClassifier:
        return replace(self, thresholds=np.asarray(thresholds, dtype=np.float64))

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "categories": self.categories, "biases": self.biases.tolist(), "thresholds": self.thresholds.tolist(), "bits": BITS,
        }  # fmt: skip
        weights = np.ascontiguousarray(self.weights, dtype=np.float32)
        save_file({"harm": weights}, file, metadata={"format": str(FORMAT), "about": json.dumps(about)})

    @classmethod
    def load(cls, file: Path) -> HarmClassifier:
        """Raises InputError if it is none, or one of another format."""
        try:
            with safe_open(file, "numpy") as opened:
                metadata = opened.metadata() or {}
            about, weights = json.loads(metadata["about"]), load_file(file)["harm"]
            check_format(file, metadata)
            categories, biases = tuple(about["categories"]), np.array(about["biases"], dtype=np.float64)
            thresholds = np.array(about["thresholds"], dtype=np.float64)
            if about["bits"] != BITS or weights.shape != (1 << BITS, len(categories)):
                raise InputError(
                    f"{file} has weights {weights.shape}, not {(1 << BITS, len(categories))}",
                    remedy="train it anew",
                )
            if not len(categories) == len(biases) == len(thresholds):
                raise InputError(
                    f"{file} has {len(categories)} categories and {len(thresholds)} thresholds",
                    remedy="train it anew",
                )
            return cls(categories, weights, biases, thresholds)
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise InputError(
                f"{file} is no classifier of harm ({error})", remedy="hanok guard train-harm writes one"
            ) from error


def is_harm(file: Path) -> bool:
    """Whether a file is a classifier of harm rather than a detector."""
    try:
        with safe_open(file, "numpy") as opened:
            return "harm" in opened.keys()  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError):
        return False


class Harm:
    """A rule, for input and for output, where text is judged sentence by sentence.

    Args:
        actions: of the categories that differ from `action`; "allow" for nothing.
        thresholds: of the categories that differ from the file's.
        origins: of the parts that it reads.
    """

    def __init__(
        self, classifier: HarmClassifier, origins: frozenset[str], *, name: str = "harm", action: Action = "flag",
        actions: Mapping[str, Action] | None = None, thresholds: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.name, self._classifier, self._origins = name, classifier, origins
        self._actions: list[Action] = [(actions or {}).get(one, action) for one in classifier.categories]
        given = zip(classifier.categories, classifier.thresholds, strict=True)
        self._thresholds = np.array([(thresholds or {}).get(one, own) for one, own in given])

    def read(self, parts: Sequence[Part], clock: Clock) -> Iterator[Located]:
        for number, part in enumerate(parts):
            if part.origin not in self._origins:
                continue
            for start, end in pieces(part.text):
                for one in self._judged("", part.text[start:end]):
                    yield Located(number, replace(one, start=start, end=end))
                clock.check()

    def begin(self, before: str) -> Windowed:
        return Windowed(self._judged, least=_SENTENCE, most=PIECE, before=before)

    def categories(self, text: str) -> Iterator[tuple[str, float, Action]]:
        """Each with its probability (the worst piece's), and what is done about it: "allow" up to its threshold."""
        scores = self._classifier.judge(text)
        if np.isnan(scores).any():
            raise ValueError("a score is no number")
        for name, score, least, action in zip(
            self._classifier.categories, scores, self._thresholds, self._actions, strict=True
        ):
            probability = 0.0 if score == -np.inf else 1 / (1 + math.exp(-max(score, -700.0)))
            yield name, probability, action if score > least else "allow"

    def _judged(self, _before: str, text: str) -> Iterator[Finding]:
        """One finding, by the strictest of the categories."""
        scores = self._classifier.scores(text)
        if np.isnan(scores).any():
            raise ValueError("a score is no number")
        found = [
            number for number in np.flatnonzero(scores > self._thresholds) if self._actions[number] != "allow"
        ]
        if found:
            actions: list[Action] = [self._actions[number] for number in found]
            action = max(actions, key=_ORDER.index)
            names = [f"{self._classifier.categories[number]} {scores[number]:.2f}" for number in found]
            yield Finding(self.name, 0, len(text), action, f"reads like {', '.join(names)}", "[…]")
