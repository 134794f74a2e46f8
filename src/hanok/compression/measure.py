"""How far a model's law of the next token is from another's, on held-out text: by token, and by layer.

Two decoders walk side by side, a layer at a time, so that what a layer needed is given back behind it; heads are multiplied piece
by piece of the vocabulary. The made model's embedding and head are rounded as the engine rounds them, where `head_bits` says so.

T tokens of all windows, C tokens of a piece, D model width, V vocabulary (in `law_CV`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.compression.calibrate import batches
from hanok.kernels.formats import GROUP, quantise
from hanok.kernels.memory import give_back
from hanok.models.coded import stored_parts
from hanok.models.decoder import Decoder

_PIECE_BYTES = 32 << 20  # of float32 rows of a head, and of logits


@dataclass(frozen=True, slots=True)
class Distance:
    """All over the tokens of the windows but their first.

    kl_T: KL(original || made) in nats of each predicted token, window after window. surprise_2T: -log p of the token that came,
    before and after. likeliest_2T: the token that either would have said. drift_L: behind each layer, the length of the
    difference of the hidden vectors over their own length; empty where one has fewer layers.
    """

    kl_T: Tensor
    surprise_2T: Tensor
    likeliest_2T: Tensor
    drift_L: list[float]

    @property
    def perplexity_before(self) -> float:
        return math.exp(float(self.surprise_2T[0].mean()))

    @property
    def perplexity_after(self) -> float:
        return math.exp(float(self.surprise_2T[1].mean()))

    @property
    def kl(self) -> float:
        return float(self.kl_T.double().mean())

    def metrics(self) -> dict[str, float]:
        ordered = self.kl_T.sort().values
        return {
            "held_out_tokens": len(self.kl_T),
            "perplexity_before": self.perplexity_before,
            "perplexity_after": self.perplexity_after,
            "kl": self.kl,
            "kl_worst_percent": float(ordered[int(0.99 * (len(ordered) - 1))]),
            "likeliest_token_differs": float((self.likeliest_2T[0] != self.likeliest_2T[1]).double().mean()),
        }


class RoundedTable(nn.Module):
    """An embedding whose rows are rounded when they are looked up."""

    def __init__(self, table: nn.Embedding, bits: int) -> None:
        super().__init__()
        self.weight, self.bits = table.weight, bits

    def forward(self, ids_N: Tensor) -> Tensor:
        return rounded(self.weight[ids_N], self.bits).to(self.weight.dtype)


def rounded(weight_NK: Tensor, bits: int) -> Tensor:
    """What codes of 4 or 8 bits in groups of 32 make of it, float32; 16 bits: as it is."""
    weight_NK = weight_NK.float()
    if bits == 16:
        return weight_NK
    filled = F.pad(weight_NK, (0, -weight_NK.shape[1] % GROUP))
    return quantise(filled, bits).dequantised()[:, : weight_NK.shape[1]]


@dataclass(frozen=True, slots=True)
class Walked:
    """A model that several are compared with on the same windows: its head, and its hidden vectors behind the last norm."""

    decoder: Decoder
    normed_TD: Tensor


@torch.no_grad()
def walked(decoder: Decoder, windows: Sequence[np.ndarray]) -> Walked:
    lengths = [len(window) for window in windows]
    x_TD = embedded(decoder, torch.from_numpy(np.concatenate(windows).astype(np.int64)), lengths)
    for block in decoder.layers:
        advance_rows(block, x_TD, lengths)
    return Walked(decoder, decoder.norm(x_TD))


@torch.no_grad()
def compare(
    original: Decoder | Walked,
    made: Decoder,
    windows: Sequence[np.ndarray],
    *,
    head_bits: int = 16,
    keep: bool = True,
) -> Distance:
    """Args:
    original: one that was walked before, on these windows, saves its half of the work; how far layers drift is then not told.
    head_bits: of the made model's embedding and head. keep: False takes models apart on the way.
    """
    lengths = [len(window) for window in windows]
    ids_T = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    if head_bits < 16:
        made.embed_tokens = RoundedTable(made.embed_tokens, head_bits)  # pyright: ignore[reportAttributeAccessIssue]
    walking = [made] if isinstance(original, Walked) else [original, made]
    sides = [embedded(decoder, ids_T, lengths) for decoder in walking]
    give_back([part for decoder in walking for part in stored_parts(decoder)])
    drift, alike = [], len({len(decoder.layers) for decoder in walking}) == 1 < len(walking)
    for number in range(max(len(decoder.layers) for decoder in walking)):
        for decoder, x_TD in zip(walking, sides, strict=True):
            if number >= len(decoder.layers):
                continue
            advance_rows(decoder.layers[number], x_TD, lengths)
            give_back(stored_parts(decoder.layers[number]))
            if not keep:
                decoder.layers[number] = nn.Identity()
        if alike:
            drift.append(float((sides[0] - sides[1]).norm() / sides[0].norm().clamp(min=1e-30)))
    normed = [decoder.norm(x_TD) for decoder, x_TD in zip(walking, sides, strict=True)]
    if isinstance(original, Walked):
        original, normed = original.decoder, [original.normed_TD, *normed]
    rows_T, targets_T = predicted(ids_T, lengths)
    sums = _Sums(len(rows_T))
    places = range(
        0, original.head_weight.shape[0], piece := max(1024, _PIECE_BYTES // (4 * normed[0].shape[1]))
    )
    for start in places:
        heads = [
            rounded(decoder.head_weight[start : start + piece], bits)
            for decoder, bits in ((original, 16), (made, head_bits))
        ]
        for chunk in torch.arange(len(rows_T)).split(max(16, _PIECE_BYTES // (4 * piece))):
            rows = rows_T[chunk]
            ours, theirs = (
                _capped(F.linear(x_TD[rows], head), decoder.config.logit_softcap)
                for x_TD, head, decoder in zip(normed, heads, (original, made), strict=True)
            )
            sums.add(chunk, ours, theirs, targets_T[rows] - start)
        for decoder in (original, made):
            give_back([decoder.head_weight])
    return Distance(*sums.results(), drift)


class _Sums:
    """Over pieces of the vocabulary: what KL, surprise and the likeliest token need of two rows of logits a and b.

    KL = sum p (a - b) - log sum e^a + log sum e^b with p = e^a / sum e^a; exponents are taken from the largest so far.
    """

    def __init__(self, tokens: int) -> None:
        low = torch.full((2, tokens), -torch.inf, dtype=torch.float64)
        self._most, self._likeliest = low, torch.zeros(2, tokens, dtype=torch.long)
        self._mass, self._gap = torch.zeros_like(low), torch.zeros(tokens, dtype=torch.float64)
        self._target, self._seen = torch.zeros_like(low), 0

    def add(self, chunk: Tensor, ours_CV: Tensor, theirs_CV: Tensor, targets_C: Tensor) -> None:
        """targets_C: their places in this piece; outside of it they lie elsewhere."""
        here_C = (targets_C >= 0) & (targets_C < ours_CV.shape[1])
        for side, logits_CV in enumerate((ours_CV, theirs_CV)):
            top_C, where_C = (found.squeeze(1) for found in logits_CV.max(1, keepdim=True))
            before_C = self._most[side, chunk]
            better_C = top_C > before_C
            self._likeliest[side, chunk] = torch.where(
                better_C, where_C + self._seen, self._likeliest[side, chunk]
            )
            most_C = torch.maximum(before_C, top_C.double())
            shrink_C = (before_C - most_C).exp()
            shares_CV = (logits_CV - most_C[:, None].float()).exp()
            if side == 0:
                gap_C = (shares_CV * (ours_CV - theirs_CV)).sum(1, dtype=torch.float64)
                self._gap[chunk] = self._gap[chunk] * shrink_C + gap_C
            mass_C = shares_CV.sum(1, dtype=torch.float64)
            self._mass[side, chunk] = self._mass[side, chunk] * shrink_C + mass_C
            self._most[side, chunk] = most_C
            found_C = logits_CV.gather(1, targets_C.clamp(0, logits_CV.shape[1] - 1)[:, None])[:, 0]
            self._target[side, chunk] = torch.where(here_C, found_C.double(), self._target[side, chunk])
        if int(chunk[-1]) == self._mass.shape[1] - 1:
            self._seen += ours_CV.shape[1]

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """(KL of each token, surprise [2, T], likeliest token [2, T])."""
        total = self._most + self._mass.log()
        kl_T = (self._gap / self._mass[0] - total[0] + total[1]).float()
        return kl_T, total - self._target, self._likeliest


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * (logits / cap).tanh()


def kl_of(ours_CV: Tensor, theirs_CV: Tensor) -> Tensor:
    """KL(ours || theirs) of each row, from log-probabilities."""
    return (ours_CV.exp() * (ours_CV - theirs_CV)).sum(-1)


class Head:
    """Log-probabilities from hidden vectors behind the last norm, at most `rows` of them at once."""

    def __init__(self, decoder: Decoder, bits: int) -> None:
        self._decoder, self._bits = decoder, bits
        vocabulary, width = decoder.head_weight.shape
        self.rows = max(16, _PIECE_BYTES // (4 * vocabulary))
        self._piece = max(1024, _PIECE_BYTES // (4 * width))

    def __call__(self, hidden_CD: Tensor) -> Tensor:
        parts = [
            F.linear(hidden_CD, rounded(part, self._bits))
            for part in self._decoder.head_weight.split(self._piece)
        ]
        logits_CV = torch.cat(parts, -1)
        return _capped(logits_CV, self._decoder.config.logit_softcap).log_softmax(-1)


def predicted(ids_T: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(places from which a token of the same window is predicted, that token at each place [T])."""
    ends = torch.tensor(lengths).cumsum(0) - 1
    inside_T = torch.ones(len(ids_T), dtype=torch.bool)
    inside_T[ends] = False
    return inside_T.nonzero()[:, 0], ids_T.roll(-1)


def embedded(decoder: Decoder, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
    x_TD = torch.empty(len(ids_T), decoder.config.hidden_size)
    for rows, ragged in batches(lengths):
        x_TD[rows] = decoder._embed(ids_T[rows], ragged).float()
    return x_TD


def advance_rows(block: nn.Module, x_TD: Tensor, lengths: Sequence[int]) -> None:
    """In place."""
    for rows, ragged in batches(lengths):
        x_TD[rows] = block(x_TD[rows], ragged, None).float()


@torch.no_grad()
def layer_distances(original: Decoder, made: Decoder, windows: Sequence[np.ndarray]) -> list[float]:
    """KL in nats a token, were this layer alone the made model's: which layers cost most. Both in the same coordinates; `made` is
    taken apart on the way."""
    lengths = [len(window) for window in windows]
    ids_T = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    x_TD = embedded(original, ids_T, lengths)
    inputs = []
    for block in original.layers:
        inputs.append(x_TD.clone())
        advance_rows(block, x_TD, lengths)
        give_back(stored_parts(original))
    head, (rows_T, _) = Head(original, 16), predicted(ids_T, lengths)
    own_TD = original.norm(x_TD)
    found = []
    for number, block in enumerate(list(made.layers)):
        x_TD = inputs[number]
        advance_rows(block, x_TD, lengths)
        made.layers[number] = nn.Identity()
        give_back(stored_parts(block))
        for later in original.layers[number + 1 :]:
            advance_rows(later, x_TD, lengths)
            give_back(stored_parts(original))
        other_TD = original.norm(x_TD)
        parts = [kl_of(head(own_TD[rows]), head(other_TD[rows])) for rows in rows_T.split(head.rows)]
        found.append(float(torch.cat(parts).double().mean()))
    return found
