"""Exposure of canaries (Carlini et al., "The Secret Sharer", arXiv 1802.08232): log2 |R| - log2 rank, where the rank is the
secret's place among all of its space R by the model's loss behind the canary's prefix.

The rank is |R| P(loss <= the secret's), and P is estimated from a sample of R: counted where enough of the sample lies below,
else, as they do, from a skew normal law, here the one with the sample's mean, variance and skewness.

B secrets, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from hanok.data.canaries import Canary
from hanok.models.decoder import Decoder
from hanok.models.state import DecoderState

_COUNTED = 20  # of the sample below the secret: then counting is good enough
_BATCH = 512
_MOST_SKEW = 0.99  # the law has less than 0.9953


@dataclass(frozen=True, slots=True)
class Exposure:
    """`bits` of `most`, from the loss of the secret and of a sample of others, in nats."""

    bits: float
    most: float
    loss: float
    sample_mean: float
    sample_deviation: float
    counted: bool


def texts_of(canary: Canary, count: int, *, seed: int) -> list[str]:
    """The canary up to its secret, then the same with other secrets."""
    draw = random.Random(f"{seed} {canary.id}")
    others: list[str] = []
    while len(others) < count:
        other = f"{draw.randrange(10**canary.digits):0{canary.digits}d}"
        if other != canary.secret:
            others.append(other)
    return [canary.prefix + secret for secret in (canary.secret, *others)]


def exposure(decoder: Decoder, texts: Sequence[Sequence[int]], canary: Canary) -> Exposure:
    """Args: texts: tokens of `texts_of`, each behind what a document begins with."""
    losses = sequence_losses(decoder, texts)
    return exposure_of(float(losses[0]), losses[1:], most=canary.digits * math.log2(10))


def exposure_of(loss: float, sample: NDArray[np.float64], *, most: float) -> Exposure:
    """Args: most: log2 |R|."""
    below = int((sample <= loss).sum())
    counted = below >= _COUNTED
    log2_p = math.log2(below / len(sample)) if counted else log2_tail(loss, sample)
    bits = min(max(0.0, -log2_p), most)
    return Exposure(bits, most, loss, float(sample.mean()), float(sample.std(ddof=1)), counted)


def log2_tail(value: float, sample: NDArray[np.float64]) -> float:
    """log2 P(X <= value) of the skew normal law (Azzalini 1985) with the sample's first three moments."""
    mean, deviation = float(sample.mean()), float(sample.std())
    if deviation == 0.0:
        return 0.0 if value >= mean else -math.inf
    skew = float(((sample - mean) ** 3).mean()) / deviation**3
    skew = math.copysign(min(abs(skew), _MOST_SKEW), skew)
    ratio = abs(skew) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * ratio / (ratio + ((4 - math.pi) / 2) ** (2 / 3))), skew)
    scale = deviation / math.sqrt(1 - 2 * delta * delta / math.pi)
    place = mean - scale * delta * math.sqrt(2 / math.pi)
    return _log2_skew_normal((value - place) / scale, delta / math.sqrt(1 - delta * delta))


def _log2_skew_normal(z: float, alpha: float) -> float:
    """log2 of the integral of 2 phi(t) Phi(alpha t) up to z, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    low, high = min(z, 0.0) - 12.0, min(z, 12.0)
    t = low + (high - low) * (nodes + 1) / 2
    logs = [math.log(2) - x * x / 2 - math.log(2 * math.pi) / 2 + _log_phi(alpha * x) for x in t.tolist()]
    top = max(logs)
    integral = float((weights * np.exp(np.array(logs) - top)).sum()) * (high - low) / 2
    return min(0.0, (top + math.log(integral)) / math.log(2))


def _log_phi(x: float) -> float:
    """log Phi(x); by its asymptotic series where erfc underflows."""
    if x > -30.0:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    return -x * x / 2 - math.log(-x) - math.log(2 * math.pi) / 2


@torch.no_grad()
def sequence_losses(decoder: Decoder, texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Nats of each text's tokens behind what all of them begin with; that is read once."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    shared = min(sum(1 for _ in columns), min(map(len, texts)) - 1)
    prefix = torch.tensor(list(texts[0][:shared]))
    hidden_ND, state = decoder(prefix, torch.tensor([0, shared], dtype=torch.int32), decoder.new_state(1))
    first_V = decoder.logits(hidden_ND[-1:]).double().log_softmax(-1)[0]
    rests = [list(text[shared:]) for text in texts]
    losses = -first_V[[rest[0] for rest in rests]].numpy().copy()
    longer = [place for place, rest in enumerate(rests) if len(rest) > 1]
    for start in range(0, len(longer), _BATCH):
        places = longer[start : start + _BATCH]
        losses[places] += _later_losses(decoder, state, [rests[place] for place in places])
    return losses


def _later_losses(
    decoder: Decoder, state: DecoderState, rests: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Of all but the first token of each."""
    lengths = [len(rest) - 1 for rest in rests]
    bounds = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32)
    ids_N = torch.tensor([token for rest in rests for token in rest[:-1]])
    targets_N = torch.tensor([token for rest in rests for token in rest[1:]])
    hidden_ND, _ = decoder(ids_N, bounds, state.select([0] * len(rests)))
    nats_N = torch.nn.functional.cross_entropy(
        decoder.logits(hidden_ND).double(), targets_N, reduction="none"
    )
    return np.add.reduceat(nats_N.numpy(), bounds[:-1].numpy())
