"""A linear detector over hashed n-grams: logistic regression with balanced classes and an L2 penalty, solved to its optimum.

A text's score is the worst of its pieces and readings: sum of the weights of its distinct n-grams, over the root of their number,
plus a bias. A score of 0 is an even chance among the (balanced) rows it was trained on; what to do at which score is a matter of
calibration on one's own traffic (`hanok.guard.calibrate`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from hanok.errors import InputError
from hanok.guard.grams import BITS, FORMAT, check_format, hashed
from hanok.guard.views import views

PIECE = 400  # characters; a long text would drown what is said in one line of it
_BREAK = re.compile(r"[\n.!?。]\s*|\s")


@dataclass(frozen=True, slots=True)
class Hit:
    """The worst reading. `way`: as `hanok.guard.views.View` has it; `start`, `end`: the piece's place in the text."""

    score: float
    way: str
    start: int
    end: int


@dataclass(frozen=True)
class LinearDetector:
    """`weights` [2**BITS] float32. `lines`: whether each line is judged on its own (text of third parties) or pieces of PIECE
    characters. `threshold`: what counts as a hit."""

    name: str
    weights: np.ndarray
    bias: float
    threshold: float = 0.0
    lines: bool = False

    def judge(self, text: str) -> Hit:
        """The worst piece in its worst reading; of an empty text, minus infinity."""
        worst = Hit(float("-inf"), "plain", 0, 0)
        for start, end in pieces(text, lines=self.lines):
            for view in views(text[start:end]):
                score = self.score(view.text)
                if score > worst.score:
                    worst = Hit(score, view.way, start, end)
        return worst

    def score(self, reading: str) -> float:
        """Of one reading in its normal form (`hanok.guard.views.normal`)."""
        return self.weigh(hashed(reading))

    def weigh(self, grams: np.ndarray) -> float:
        """The score of a reading that has these n-grams."""
        if not len(grams):
            return float("-inf")
        return float(self.weights[grams].sum() / np.sqrt(len(grams)) + self.bias)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        about = {"format": str(FORMAT), "about": json.dumps(
            {"name": self.name, "bias": self.bias, "threshold": self.threshold, "lines": self.lines, "bits": BITS}
        )}  # fmt: skip
        save_file(
            {"weights": self.weights.astype(np.float32)},
            directory / f"{self.name}.safetensors",
            metadata=about,
        )

    @classmethod
    def load(cls, file: Path) -> LinearDetector:
        """Raises InputError if it is no detector, or one of another format."""
        try:
            with safe_open(file, "numpy") as opened:
                metadata = opened.metadata() or {}
            about = json.loads(metadata["about"])
            weights = load_file(file)["weights"]
            check_format(file, metadata)
            if about["bits"] != BITS or weights.shape != (1 << BITS,):
                raise InputError(
                    f"{file} has 2**{about['bits']} weights, not 2**{BITS}", remedy="train it anew"
                )
            return cls(about["name"], weights, about["bias"], about["threshold"], about["lines"])
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise InputError(
                f"{file} is no detector ({error})", remedy="hanok guard train writes one"
            ) from error


def pieces(text: str, *, lines: bool = False) -> Iterator[tuple[int, int]]:
    """Places of the pieces that are judged on their own: lines, or what fits into PIECE characters, cut behind a sentence."""
    if lines:
        for match in re.finditer(r"[^\n|]+", text):
            if match[0].strip():
                for start, end in pieces(match[0]):
                    yield match.start() + start, match.start() + end
        return
    start = 0
    while start < len(text):
        end = min(start + PIECE, len(text))
        if end < len(text):
            breaks = [match.end() for match in _BREAK.finditer(text, start + PIECE // 2, end)]
            end = breaks[-1] if breaks else end
        yield start, end
        start = end


def solve(
    grams: Sequence[np.ndarray], labels: Sequence[int], *, penalty: float, worth: Sequence[float] | None = None
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Weights [2**BITS] float32 and bias.

    Args:
        grams: of each row, as `hanok.guard.grams.hashed` gives them.
        labels: 1 for what is to be found.
        worth: what each row counts for among those of its label; all alike by default.

    Raises:
        InputError: one of the classes is missing.
    """
    import torch

    wanted = np.asarray(labels, dtype=np.float64)
    if not 0 < wanted.sum() < len(wanted):
        raise InputError("all rows have the same label", remedy="a detector needs rows of both kinds")
    lengths = np.array([len(one) for one in grams])
    known, columns = np.unique(np.concatenate(grams), return_inverse=True)  # the others' weights are 0
    some = lengths > 0  # a row without n-grams has no place to start from
    starts = (np.cumsum(lengths) - lengths)[some]
    scales = 1 / np.sqrt(np.maximum(1, lengths))
    balance = np.ones(len(grams)) if worth is None else np.array(worth, dtype=np.float64)
    for label in (0, 1):
        balance[wanted == label] *= 0.5 / balance[wanted == label].sum()
    weights = torch.zeros(len(known), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=60, history_size=8, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        """Logistic loss with its gradient, by sums over the few n-grams that a row has."""
        current = weights.detach().numpy()
        scores = np.full(len(grams), bias.item())
        scores[some] += np.add.reduceat(current[columns], starts) * scales[some]
        slope = balance * (0.5 * (1 + np.tanh(0.5 * scores)) - wanted)
        steps = np.bincount(columns, np.repeat(slope * scales, lengths), minlength=len(known))
        gradient = steps + 2 * penalty * current
        weights.grad, bias.grad = torch.from_numpy(gradient), torch.tensor(slope.sum())
        each = np.maximum(scores, 0) - scores * wanted + np.log1p(np.exp(-np.abs(scores)))
        return torch.tensor((balance * each).sum() + penalty * np.square(current).sum())

    solver.step(loss)
    found = np.zeros(1 << BITS, dtype=np.float32)
    found[known] = weights.detach().numpy()
    return found, float(bias.detach())
