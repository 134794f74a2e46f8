"""How far a model's law of the next token is from another's, on held-out text: by token, and by layer.

Two decoders walk side by side, a layer at a time, so that what a layer needed is given back behind it; heads are multiplied in
pieces. The made model's embedding and head are rounded as the engine rounds them, where `head_bits` says so.

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

_PIECE_BYTES = 64 << 20  # of float32 rows of a head, and of laws


@dataclass(frozen=True, slots=True)
class Distance:
    """All over the tokens of the windows but their first.

    kl_T: KL(original || made) in nats of each predicted token, window after window. drift_L: behind each layer, the length of
    the difference of the hidden vectors over their own length; empty where one has fewer layers.
    """

    perplexity_before: float
    perplexity_after: float
    flipped: float
    kl_T: Tensor
    drift_L: list[float]

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
            "likeliest_token_differs": self.flipped,
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


@torch.no_grad()
def compare(
    original: Decoder, made: Decoder, windows: Sequence[np.ndarray], *, head_bits: int = 16, keep: bool = True
) -> Distance:
    """Args:
    head_bits: of the made model's embedding and head. keep: False takes both models apart on the way.
    """
    lengths = [len(window) for window in windows]
    ids_T = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    if head_bits < 16:
        made.embed_tokens = RoundedTable(made.embed_tokens, head_bits)  # pyright: ignore[reportAttributeAccessIssue]
    sides = [embedded(decoder, ids_T, lengths) for decoder in (original, made)]
    drift, alike = [], len(original.layers) == len(made.layers)
    for number in range(max(len(original.layers), len(made.layers))):
        for decoder, x_TD in zip((original, made), sides, strict=True):
            if number >= len(decoder.layers):
                continue
            advance_rows(decoder.layers[number], x_TD, lengths)
            if not keep:
                decoder.layers[number] = nn.Identity()
            give_back(stored_parts(decoder))
        if alike:
            drift.append(float((sides[0] - sides[1]).norm() / sides[0].norm().clamp(min=1e-30)))
    normed = [decoder.norm(x_TD) for decoder, x_TD in zip((original, made), sides, strict=True)]
    rows_T, targets_T = predicted(ids_T, lengths)
    laws = (Head(original, 16), Head(made, head_bits))
    before = after = 0.0
    flipped, parts = 0, []
    for rows in rows_T.split(laws[0].rows):
        ours_CV, theirs_CV = (law(x_TD[rows]) for law, x_TD in zip(laws, normed, strict=True))
        targets_C1 = targets_T[rows][:, None]
        before -= float(ours_CV.gather(1, targets_C1).double().sum())
        after -= float(theirs_CV.gather(1, targets_C1).double().sum())
        flipped += int((ours_CV.argmax(-1) != theirs_CV.argmax(-1)).sum())
        parts.append(kl_of(ours_CV, theirs_CV))
    tokens = len(rows_T)
    return Distance(
        math.exp(before / tokens), math.exp(after / tokens), flipped / tokens, torch.cat(parts), drift
    )


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
        cap = self._decoder.config.logit_softcap
        return (logits_CV if cap is None else cap * (logits_CV / cap).tanh()).log_softmax(-1)


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
        give_back(stored_parts(made))
        for later in original.layers[number + 1 :]:
            advance_rows(later, x_TD, lengths)
            give_back(stored_parts(original))
        other_TD = original.norm(x_TD)
        parts = [kl_of(head(own_TD[rows]), head(other_TD[rows])) for rows in rows_T.split(head.rows)]
        found.append(float(torch.cat(parts).double().mean()))
    return found
