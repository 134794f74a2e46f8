"""Where two models of one tokeniser differ: the predictions that changed most, on held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hanok.compression.measure import Distance, compare
from hanok.compression.texts import read_texts
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_head_bits, load_model, load_stored_bits
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer

_BEFORE = 12  # tokens shown before each


@dataclass(frozen=True, slots=True)
class Difference:
    """distance: KL(before || after) of each prediction, window after window."""

    distance: Distance
    windows: list[np.ndarray]
    tokenizer: Tokenizer

    def worst(self, count: int) -> list[tuple[float, str, str]]:
        return worst_predictions(self.distance, self.windows, self.tokenizer, count)

    def add_to(self, report: Report, *, count: int = 20) -> None:
        report.add_table("How far apart", ("measure", "value"), list(self.distance.metrics().items()))
        add_predictions(report, self.worst(count))


def differ(before: Path, after: Path, *, data: Path, held_out: int, length: int, seed: int = 1) -> Difference:
    """Codes are taken for what they stand for; embedding and head of a directory with codes are rounded as the engine does it.

    Raises:
        ConfigError: two tokenisers. InputError, ArtefactError: as `read_texts`.
    """
    tokenizer = Tokenizer.load(before)
    if Tokenizer.load(after).hash != tokenizer.hash:
        raise ConfigError(
            f"{before} and {after} have different tokenisers", remedy="compare their answers: hanok eval"
        )
    texts = read_texts(data, before, samples=1, held_out=held_out, length=length, seed=seed)
    decoders = [load_model(path, dtype="stored", sparing=True) for path in (before, after)]
    for decoder in decoders:
        decoder.requires_grad_(False).set_compute_dtype(torch.float32)
    bits = load_head_bits(after) or load_stored_bits(after) or 16
    distance = compare(decoders[0], decoders[1], texts.held_out, head_bits=bits, keep=False)
    return Difference(distance, texts.held_out, tokenizer)


def worst_predictions(
    distance: Distance, windows: list[np.ndarray], tokenizer: Tokenizer, count: int
) -> list[tuple[float, str, str]]:
    """(KL in nats, the text before, the token that came)."""
    places = [(number, i) for number, window in enumerate(windows) for i in range(len(window) - 1)]
    rows = []
    for index in distance.kl_T.argsort(descending=True)[:count].tolist():
        number, i = places[index]
        ids = windows[number]
        behind = tokenizer.decode(ids[max(0, i + 1 - _BEFORE) : i + 1].tolist())
        rows.append((float(distance.kl_T[index]), "…" + behind, tokenizer.decode([int(ids[i + 1])])))
    return rows


def add_predictions(report: Report, rows: list[tuple[float, str, str]]) -> None:
    report.add_table("Predictions that changed most", ("kl", "behind", "the text goes on with"), rows)
