"""Choosing the next token of each sequence.

Every choice depends on its own row alone: randomness is a hash of (seed, sample index, position), and rows whose
settings differ are never treated by a path that another row picked.

B sequences, V vocabulary.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hanok.engine.api import SamplingParams


class Draw(NamedTuple):
    """What decides the next token of one sequence, beside its logits.

    Args:
        prompt_ids, ids: the prompt and what was generated so far. banned: ids that may not come now.
        allowed: [ceil(V / 32)], bit i % 32 of word i // 32 set where token i may come; None = all.
    """

    params: SamplingParams
    seed: int
    sample_index: int
    prompt_ids: Sequence[int]
    ids: Sequence[int]
    banned: Sequence[int] = ()
    allowed: NDArray[np.uint32] | None = None


class Choice(NamedTuple):
    """`logprob` and `top` are of the model's own distribution, before penalties, bias and temperature."""

    token: int
    logprob: float | None
    top: Mapping[int, float] | None


def choose(logits_BV: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """One token a row of float32 logits."""
    steered_BV = _steer(logits_BV, draws)
    tokens = steered_BV.argmax(dim=-1).tolist()  # the first of equal maxima: greedy ties go to the lowest id
    plain = [b for b, draw in enumerate(draws) if draw.params.temperature > 0 and not _filters(draw.params)]
    filtered = [b for b, draw in enumerate(draws) if draw.params.temperature > 0 and _filters(draw.params)]
    for rows, sample in ((plain, _sample_plain), (filtered, _sample_filtered)):
        if rows:
            chosen = sample(steered_BV[rows].double(), [draws[b] for b in rows])
            for b, token in zip(rows, chosen, strict=True):
                tokens[b] = token
    return [
        Choice(token, *_report(logits_BV[b], token, draw.params.logprobs))
        for b, (token, draw) in enumerate(zip(tokens, draws, strict=True))
    ]


def uniform(seed: int, sample_index: int, position: int) -> float:
    """A number in [0, 1) that these three alone decide, on every machine."""
    key = struct.pack("<QQQ", seed % 2**64, sample_index, position)
    digest = hashlib.blake2b(key, digest_size=8, person=b"hanok-sampling").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _filters(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _sample_plain(logits_BV: Tensor, draws: Sequence[Draw]) -> list[int]:
    weights_BV = _weights(logits_BV, draws)
    return _invert(weights_BV, draws).tolist()


def _sample_filtered(logits_BV: Tensor, draws: Sequence[Draw]) -> list[int]:
    """top-k, then top-p, then min-p, on the tempered distribution."""
    sorted_BV, ids_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    weights_BV = _weights(sorted_BV, draws)
    rank_V = torch.arange(weights_BV.shape[1])
    top_k_B1 = torch.tensor([[draw.params.top_k or len(rank_V)] for draw in draws])
    top_p_B1 = torch.tensor([[draw.params.top_p] for draw in draws], dtype=torch.float64)
    min_p_B1 = torch.tensor([[draw.params.min_p] for draw in draws], dtype=torch.float64)
    weights_BV = weights_BV * (rank_V < top_k_B1)
    weights_BV = weights_BV / weights_BV.sum(dim=-1, keepdim=True)
    before_BV = weights_BV.cumsum(dim=-1) - weights_BV
    kept_BV = (before_BV < top_p_B1) & (weights_BV >= min_p_B1 * weights_BV[:, :1])
    kept_BV[:, 0] = True
    return ids_BV.gather(1, _invert(weights_BV * kept_BV, draws)[:, None]).squeeze(1).tolist()


def _weights(logits_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    temperature_B1 = torch.tensor([[draw.params.temperature] for draw in draws], dtype=torch.float64)
    highest_B1 = logits_BV.amax(dim=-1, keepdim=True)  # subtracted first: a tiny temperature cannot overflow
    return ((logits_BV - highest_B1) / temperature_B1).exp()


def _invert(weights_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Column whose cumulative weight first exceeds each row's uniform number."""
    total_BV = weights_BV.cumsum(dim=-1)
    point_B = torch.tensor(
        [uniform(draw.seed, draw.sample_index, len(draw.ids)) for draw in draws], dtype=torch.float64
    )
    column_B1 = torch.searchsorted(total_BV, point_B[:, None] * total_BV[:, -1:], right=True)
    last_B1 = (
        (weights_BV > 0).double().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    )  # rounding never leaves the support
    return torch.minimum(column_B1, last_B1).squeeze(1)


def _steer(logits_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Penalties, bias, bans and structure, on a copy if there are any."""
    touched = [b for b, draw in enumerate(draws) if _steered(draw)]
    if not touched:
        return logits_BV
    logits_BV = logits_BV.clone()
    for b in touched:
        _steer_row(logits_BV[b], draws[b])
    return logits_BV


def _steered(draw: Draw) -> bool:
    params = draw.params
    penalised = params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
    return bool(penalised or params.logit_bias or draw.banned) or draw.allowed is not None


def _steer_row(logits_V: Tensor, draw: Draw) -> None:
    """Repetition looks at prompt and answer (CTRL, arXiv 1909.05858, section 4.1); presence and frequency at the answer."""
    params = draw.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*draw.prompt_ids, *draw.ids}))
        values = logits_V[seen]
        factor = params.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / factor, values * factor)
    if (params.presence_penalty or params.frequency_penalty) and draw.ids:
        counts = Counter(draw.ids)
        ids, numbers = torch.tensor(list(counts)), torch.tensor(list(counts.values()), dtype=logits_V.dtype)
        logits_V[ids] -= params.presence_penalty + params.frequency_penalty * numbers
    for token, bias in params.logit_bias.items():
        logits_V[token] += bias
    if draw.banned:
        logits_V[torch.tensor(list(draw.banned))] = -torch.inf
    if draw.allowed is not None:
        bits_V = np.unpackbits(draw.allowed.view(np.uint8), count=len(logits_V), bitorder="little")
        logits_V.masked_fill_(torch.from_numpy(bits_V) == 0, -torch.inf)


def _report(
    logits_V: Tensor, token: int, alternatives: int | None
) -> tuple[float | None, Mapping[int, float] | None]:
    if alternatives is None:
        return None, None
    logprobs_V = logits_V.log_softmax(dim=-1)
    best = logprobs_V.topk(min(alternatives, len(logprobs_V)))
    return float(logprobs_V[token]), dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
