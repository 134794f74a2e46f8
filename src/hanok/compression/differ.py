"""Where two models of one tokeniser differ: the predictions that changed most, on held-out text."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hanok.compression.fake import rounded_cache, rounded_inputs
from hanok.compression.measure import Distance, compare
from hanok.compression.texts import read_texts
from hanok.errors import ConfigError
from hanok.models.checkpoint import load_head_bits, load_model, load_stored_bits
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer

_BEFORE = 12  # tokens shown before each
Prediction = tuple[float, str, str, str, str, str]
COLUMNS = ("kl", "behind", "goes on with", "p of that", "before says", "after says")


@dataclass(frozen=True, slots=True)
class Difference:
    """distance: KL(before || after) of each prediction, window after window."""

    distance: Distance
    windows: list[np.ndarray]
    tokenizer: Tokenizer

    def worst(self, count: int) -> list[Prediction]:
        return worst_predictions(self.distance, self.windows, self.tokenizer, count)

    def add_to(self, report: Report, *, count: int = 20) -> None:
        report.add_table("How far apart", ("measure", "value"), list(self.distance.metrics().items()))
        add_predictions(report, self.worst(count))


def differ(
    before: Path, after: Path, *, data: Path, held_out: int, length: int, input_bits: int = 16, cache_bits: int = 16
) -> Difference:  # fmt: skip
    """Codes are taken for what they stand for; embedding and head of a directory with codes are rounded as the engine does it.

    Args:
        input_bits, cache_bits: of what the maps of `after` read, and of its keys and values; 16: as they are.

    Raises:
        ConfigError: two tokenisers; layers that are not rounded so here. InputError, ArtefactError: as `read_texts`.
    """
    tokenizer = Tokenizer.load(before)
    if Tokenizer.load(after).hash != tokenizer.hash:
        raise ConfigError(
            f"{before} and {after} have different tokenisers", remedy="compare their answers: hanok eval"
        )
    texts = read_texts(data, before, samples=1, held_out=held_out, length=length, seed=1)
    decoders = [load_model(path, dtype="stored", sparing=True) for path in (before, after)]
    for decoder in decoders:
        decoder.requires_grad_(False).set_compute_dtype(torch.float32)
    bits = load_head_bits(after) or load_stored_bits(after) or 16
    with ExitStack() as coarser:
        for width, rounding in ((input_bits, rounded_inputs), (cache_bits, rounded_cache)):
            if not 2 <= width <= 16:
                raise ConfigError(f"{width} bits", remedy="choose 2 to 8, or 16 for as it is")
            if width < 16:
                coarser.enter_context(rounding(decoders[1], width))
        distance = compare(decoders[0], decoders[1], texts.held_out, head_bits=bits, keep=False)
    return Difference(distance, texts.held_out, tokenizer)


def worst_predictions(
    distance: Distance, windows: list[np.ndarray], tokenizer: Tokenizer, count: int
) -> list[Prediction]:
    """Those with the largest KL, the largest first."""
    places = [(number, i) for number, window in enumerate(windows) for i in range(len(window) - 1)]
    rows = []
    for index in distance.kl_T.argsort(descending=True)[:count].tolist():
        number, i = places[index]
        ids = windows[number]
        behind = tokenizer.decode(ids[max(0, i + 1 - _BEFORE) : i + 1].tolist())
        came, before, after = (
            _said(tokenizer, int(token)) for token in (ids[i + 1], *distance.likeliest_2T[:, index])
        )
        chances = " → ".join(f"{math.exp(-nats):.2g}" for nats in distance.surprise_2T[:, index].tolist())
        rows.append((float(distance.kl_T[index]), "…" + behind, came, chances, before, after))
    return rows


def _said(tokenizer: Tokenizer, token: int) -> str:
    """With its spaces in sight."""
    return repr(tokenizer.decode([token]))[1:-1].replace(" ", "␣")


def add_predictions(report: Report, rows: list[Prediction]) -> None:
    report.add_table("Predictions that changed most", COLUMNS, rows)
