"""Scores of membership inference: how familiar a text is to a model. Higher: more like what it was trained on.

loss            mean log-probability of the tokens (Yeom et al., arXiv 1709.01604)
zlib            sum of them, by the bytes that zlib needs for the text (Carlini et al., arXiv 2012.07805)
min-k           mean of the lowest fifth (Shi et al., arXiv 2310.16789)
min-k++         the same, each standardised by mean and deviation of the model's own law there (Zhang et al., arXiv 2404.02936)
reference       mean log-probability beyond what another model gives (Carlini et al.)
blind           without any model: the text's bytes by zlib's. Whoever is separated by it was not drawn from one distribution

N tokens, V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hanok.models.decoder import Decoder

K = 0.2
ATTACKS = ("loss", "zlib", "min-k", "min-k++", "reference")
_ROWS = 128  # logits computed at a time


@dataclass(frozen=True, slots=True)
class Sample:
    """A text as the model was, or would have been, trained on it. `counted`: of `ids`, those that were to be learnt."""

    ids: Sequence[int]
    counted: NDArray[np.bool_]
    text: str


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Of each counted token: its log-probability, and that standardised by the model's law there."""

    logprobs: NDArray[np.float64]
    standardised: NDArray[np.float64]


@torch.no_grad()
def familiarity(decoder: Decoder, sample: Sample) -> Familiarity:
    ids_N, wanted = torch.as_tensor(np.asarray(sample.ids, dtype=np.int64)), sample.counted[1:]
    hidden_ND, _ = decoder(ids_N[:-1], torch.tensor([0, len(ids_N) - 1], dtype=torch.int32))
    chosen_N = torch.from_numpy(np.flatnonzero(wanted))
    parts = [_standardise(decoder.logits(hidden_ND[rows]), ids_N[rows + 1]) for rows in chosen_N.split(_ROWS)]
    logprobs, standardised = (torch.cat([part[place] for part in parts]).numpy() for place in (0, 1))
    return Familiarity(logprobs, standardised)


def scores(sample: Sample, mine: Familiarity, reference: Familiarity | None) -> Mapping[str, float]:
    """By attack; `reference` is left out without another model."""
    packed = len(zlib.compress(sample.text.encode("utf-8", "replace"), 9))
    found = {
        "loss": float(mine.logprobs.mean()),
        "zlib": float(mine.logprobs.sum()) / packed,
        "min-k": _lowest(mine.logprobs),
        "min-k++": _lowest(mine.standardised),
        "blind": len(sample.text.encode("utf-8", "replace")) / packed,
    }
    if reference is not None:
        found["reference"] = float(mine.logprobs.mean() - reference.logprobs.mean())
    return found


def _standardise(logits_nV: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    logprobs_nV = logits_nV.double().log_softmax(-1)
    mine_n = logprobs_nV.gather(1, targets_n[:, None]).squeeze(1)
    shares_nV = logprobs_nV.exp()
    finite_nV = logprobs_nV.clamp(min=-1e4)  # 0 * inf of a token that cannot come
    mean_n = (shares_nV * finite_nV).sum(-1)
    variance_n = (shares_nV * finite_nV.square()).sum(-1) - mean_n.square()
    return mine_n, (mine_n - mean_n) / variance_n.clamp(min=1e-12).sqrt()


def _lowest(values_N: NDArray[np.float64]) -> float:
    count = max(1, round(K * len(values_N)))
    return float(np.sort(values_N)[:count].mean())
