"""Choosing the next token of each sequence: natively where the kernels are built, else in PyTorch, which is the specification
of both (`choose_plain`).

Every choice depends on its own row alone: randomness is a hash of (seed, sample index, position), and rows whose
settings differ are never treated by a path that another row picked.

Order: watermark, penalties, bias, bans; temperature; top-k, top-p, min-p, typical-p. B sequences, V vocabulary.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hanok.engine.api import SamplingParams
from hanok.engine.marking import Mark
from hanok.errors import EngineError, HanokError, InputError
from hanok.kernels.native import native


class Draw(NamedTuple):
    """What decides the next token of one sequence, beside its logits.

    Args:
        prompt_ids, ids: the prompt and what was generated so far. banned: ids that may not come now.
        memory: of this sequence; one that is not of these params and as many ids is passed over. Only the native form reads it.
        allowed: uint32 [ceil(V / 32)]; bit i % 32 of word i // 32 set = token i may come. None: all may.
        mark: how the token is coloured by a watermark; greedy choices never are.
        law: (temperature, top_p) in place of those of `params`, where one is learned for this token.
    """

    params: SamplingParams
    seed: int
    sample_index: int
    prompt_ids: Sequence[int]
    ids: Sequence[int]
    banned: Sequence[int] = ()
    memory: Memory | None = None
    allowed: NDArray[np.uint32] | None = None
    mark: Mark | None = None
    law: tuple[float, float] | None = None

    @property
    def temperature(self) -> float:
        return self.params.temperature if self.law is None else self.law[0]

    @property
    def top_p(self) -> float:
        return self.params.top_p if self.law is None else self.law[1]


class Choice(NamedTuple):
    """`logprob` and `top` are of the model's own distribution, before watermark, penalties, bias and temperature."""

    token: int
    logprob: float | None
    top: Mapping[int, float] | None


def choose(logits_BV: Tensor, draws: Sequence[Draw], crew: Any = None) -> list[Choice | HanokError]:
    """One token a row of float32 logits, or the error that ends its request.

    Rows that carry a watermark are changed: its weights are added in place.

    Args:
        crew: threads of the native model that the logits are of.
    """
    unmarked = _mark(logits_BV, draws)
    module = native()
    if module is None or not logits_BV.is_cpu or logits_BV.stride(1) != 1:
        chosen = choose_plain(logits_BV, draws)
    else:
        chosen = choose_native(module, logits_BV, draws, crew=crew)
    return chosen if not unmarked else _reported_anew(chosen, draws, unmarked)


def _mark(logits_BV: Tensor, draws: Sequence[Draw]) -> dict[int, Tensor]:
    """Add the watermark's weights; the rows as they were of those whose log-probabilities are asked for."""
    before: dict[int, Tensor] = {}
    for b, draw in enumerate(draws):
        if draw.mark is None or not draw.temperature:
            continue
        if draw.params.logprobs is not None:
            before[b] = logits_BV[b].clone()
        watermark, context = draw.mark
        weights_V = torch.from_numpy(watermark.colours.weights(context, logits_BV.shape[1]))
        logits_BV[b].add_(weights_V.to(logits_BV.device), alpha=watermark.delta)
    return before


def _reported_anew(
    chosen: Sequence[Choice | HanokError], draws: Sequence[Draw], unmarked: Mapping[int, Tensor]
) -> list[Choice | HanokError]:
    """With the log-probabilities of the rows before they were marked: those after would show the colours."""
    return [
        Choice(one.token, *_report(unmarked[b], one.token, draws[b].params.logprobs))
        if b in unmarked and isinstance(one, Choice)
        else one
        for b, one in enumerate(chosen)
    ]


def choose_native(
    module: Any, logits_BV: Tensor, draws: Sequence[Draw], path: str = "", crew: Any = None
) -> list[Choice | HanokError]:
    """Args: path: an instruction set of `sample_paths()`; the best by default. crew: as of `choose`."""
    memories, laws, banned, allowed, points = [], [], [], [], []
    for draw in draws:
        memory = draw.memory
        if memory is None or not memory.fits(draw):
            memory = new_memory(draw.params, draw.prompt_ids, draw.ids)
            assert memory is not None
        memories.append(memory.native)
        laws.append(draw.law)
        banned.append(draw.banned)
        allowed.append(draw.allowed)
        points.append(uniform(draw.seed, draw.sample_index, len(draw.ids)) if draw.temperature else 0.0)
    found = module.sample(
        logits_BV.data_ptr(),
        logits_BV.stride(0),
        logits_BV.shape[1],
        memories,
        laws,
        banned,
        allowed,
        points,
        path,
        crew,
    )
    return [found_choice(*one) for one in found]


def found_choice(token: int, logprob: float | None, top: Mapping[int, float] | None) -> Choice | HanokError:
    """What the native form found of a row."""
    return Choice(token, logprob, top) if token >= 0 else _error(token)


class Memory(NamedTuple):
    """What the native form keeps of a sequence between steps."""

    params: SamplingParams
    native: Any

    def follow(self, ids: Sequence[int]) -> None:
        """The sequence has these ids; those that came from `NativeDecoder.decode` are known here already."""
        for token in ids[self.native.length :]:
            self.native.push(token)

    def fits(self, draw: Draw) -> bool:
        native = self.native
        return self.params is draw.params and (not native.penalises or native.length == len(draw.ids))


def new_memory(
    params: SamplingParams, prompt_ids: Sequence[int], ids: Sequence[int] = (), *, ends: Collection[int] = ()
) -> Memory | None:
    """None where the native form is not built. `ends`: ids that end the answer."""
    module = native()
    if module is None:
        return None
    kept = module.SamplerMemory(
        [
            params.temperature, params.top_p, params.min_p, params.typical_p,
            params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
        ],
        [params.top_k, -1 if params.logprobs is None else params.logprobs],
        list(params.logit_bias), list(params.logit_bias.values()),
        list(prompt_ids) if params.repetition_penalty != 1.0 else [], list(ids), list(ends),
    )  # fmt: skip
    return Memory(params, kept)


_NOT_FINITE, _NOTHING_LEFT = -1, -2  # as in sampling.h


def _error(code: int) -> HanokError:
    if code == _NOT_FINITE:
        return EngineError(
            "the model's logits are not finite", remedy="its weights are damaged, or take bf16"
        )
    return InputError("no token may come here", remedy="allow more: bias, banned words and format forbid all")


def choose_plain(logits_BV: Tensor, draws: Sequence[Draw]) -> list[Choice | HanokError]:
    """The same in PyTorch."""
    steered_BV = _steer(logits_BV, draws)
    tokens = steered_BV.argmax(dim=-1).tolist()  # the first of equal maxima: greedy ties go to the lowest id
    failed = _failures(logits_BV, steered_BV)
    drawn = [b for b, draw in enumerate(draws) if draw.temperature > 0 and b not in failed]
    plain = [b for b in drawn if not _filters(draws[b])]
    filtered = [b for b in drawn if _filters(draws[b])]
    for rows, sample in ((plain, _sample_plain), (filtered, _sample_filtered)):
        if rows:
            chosen = sample(steered_BV[rows].double(), [draws[b] for b in rows])
            for b, token in zip(rows, chosen, strict=True):
                tokens[b] = token
    return [
        failed.get(b) or Choice(token, *_report(logits_BV[b], token, draw.params.logprobs))
        for b, (token, draw) in enumerate(zip(tokens, draws, strict=True))
    ]


def _failures(logits_BV: Tensor, steered_BV: Tensor) -> dict[int, HanokError]:
    finite_B, left_B = (
        logits_BV.isfinite().all(dim=-1).tolist(),
        (steered_BV.amax(dim=-1) > -torch.inf).tolist(),
    )
    pairs = enumerate(zip(finite_B, left_B, strict=True))
    return {
        b: _error(_NOTHING_LEFT if finite else _NOT_FINITE)
        for b, (finite, left) in pairs
        if not (finite and left)
    }


def uniform(seed: int, sample_index: int, position: int) -> float:
    """A number in [0, 1) that these three alone decide, on every machine."""
    key = struct.pack("<QQQ", seed % 2**64, sample_index, position)
    digest = hashlib.blake2b(key, digest_size=8, person=b"hanok-sampling").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _filters(draw: Draw) -> bool:
    params = draw.params
    return params.top_k > 0 or draw.top_p < 1.0 or params.min_p > 0.0 or params.typical_p < 1.0


def _sample_plain(logits_BV: Tensor, draws: Sequence[Draw]) -> list[int]:
    weights_BV = _weights(logits_BV, draws)
    return _invert(weights_BV, draws).tolist()


def _sample_filtered(logits_BV: Tensor, draws: Sequence[Draw]) -> list[int]:
    """top-k, then top-p, then min-p, then typical-p, on the tempered distribution."""
    sorted_BV, ids_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    weights_BV = _weights(sorted_BV, draws)
    device = weights_BV.device
    rank_V = torch.arange(weights_BV.shape[1], device=device)
    top_k_B1 = torch.tensor([[draw.params.top_k or len(rank_V)] for draw in draws], device=device)
    weights_BV = weights_BV * (rank_V < top_k_B1)
    weights_BV = weights_BV / weights_BV.sum(dim=-1, keepdim=True)
    before_BV = weights_BV.cumsum(dim=-1) - weights_BV
    kept_BV = before_BV < _column([draw.top_p for draw in draws], device)
    kept_BV &= weights_BV >= _column([draw.params.min_p for draw in draws], device) * weights_BV[:, :1]
    kept_BV[:, 0] = True
    weights_BV = weights_BV * kept_BV
    weights_BV = weights_BV * _typical(weights_BV, _column([draw.params.typical_p for draw in draws], device))
    return ids_BV.gather(1, _invert(weights_BV, draws)[:, None]).squeeze(1).tolist()


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor([[value] for value in values], dtype=torch.float64, device=device)


def _typical(weights_BV: Tensor, mass_B1: Tensor) -> Tensor:
    """Locally typical sampling (arXiv 2202.00666): keeps those whose surprise is nearest to the entropy, up to the mass."""
    shares_BV = weights_BV / weights_BV.sum(dim=-1, keepdim=True)
    surprise_BV = -shares_BV.log()
    entropy_B1 = (shares_BV * surprise_BV).nan_to_num(nan=0.0, posinf=0.0).sum(dim=-1, keepdim=True)
    order_BV = (surprise_BV - entropy_B1).abs().argsort(dim=-1, stable=True)
    sorted_BV = shares_BV.gather(1, order_BV)
    kept_BV = (sorted_BV.cumsum(dim=-1) - sorted_BV < mass_B1) | (mass_B1 >= 1.0)
    kept_BV[:, 0] = True
    return torch.zeros_like(kept_BV).scatter(1, order_BV, kept_BV)


def _weights(logits_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    highest_B1 = logits_BV.amax(dim=-1, keepdim=True)  # subtracted first: a tiny temperature cannot overflow
    return ((logits_BV - highest_B1) / _column([draw.temperature for draw in draws], logits_BV.device)).exp()


def _invert(weights_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Column whose cumulative weight first exceeds each row's uniform number."""
    total_BV = weights_BV.cumsum(dim=-1)
    point_B = torch.tensor(
        [uniform(draw.seed, draw.sample_index, len(draw.ids)) for draw in draws], dtype=torch.float64,
        device=weights_BV.device,
    )  # fmt: skip
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
    return bool(penalised or params.logit_bias or draw.banned or draw.allowed is not None)


def _steer_row(logits_V: Tensor, draw: Draw) -> None:
    """Repetition looks at prompt and answer (CTRL, arXiv 1909.05858, section 4.1); presence and frequency at the answer.
    Ids beyond V, which prompts may hold, are left out."""
    params, vocabulary, device = draw.params, len(logits_V), logits_V.device
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(
            [n for n in sorted({*draw.prompt_ids, *draw.ids}) if n < vocabulary],
            dtype=torch.long,
            device=device,
        )
        values = logits_V[seen]
        factor = params.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / factor, values * factor)
    if (params.presence_penalty or params.frequency_penalty) and draw.ids:
        counts = Counter(draw.ids)
        ids = torch.tensor(list(counts), device=device)
        numbers = torch.tensor(list(counts.values()), dtype=logits_V.dtype, device=device)
        logits_V[ids] -= params.presence_penalty + params.frequency_penalty * numbers
    for token, bias in params.logit_bias.items():
        logits_V[token] += bias
    banned = [token for token in draw.banned if token < vocabulary]
    if banned:
        logits_V[torch.tensor(banned, device=device)] = -torch.inf
    if draw.allowed is not None:
        bits = np.unpackbits(draw.allowed.view(np.uint8), bitorder="little")[:vocabulary]
        logits_V[torch.from_numpy(bits == 0).to(device)] = -torch.inf


def _report(
    logits_V: Tensor, token: int, alternatives: int | None
) -> tuple[float | None, Mapping[int, float] | None]:
    if alternatives is None:
        return None, None
    logprobs_V = logits_V.double().log_softmax(dim=-1)
    ids = logits_V.argsort(descending=True, stable=True)[:alternatives]
    return float(logprobs_V[token]), dict(zip(ids.tolist(), logprobs_V[ids].tolist(), strict=True))
