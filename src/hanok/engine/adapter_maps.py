"""An adapter as the native kernels read it (`kernels/native_src/adapters.h`): A of the parts that one packed matrix joins side by
side, B in the order of its outputs.

A block of 16 outputs belongs to one part mostly, and only the ranks of that part are kept for it.
N outputs of a packed matrix, K inputs, R ranks of all its parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.engine.arrange import gate_last, in_turns, padded
from hanok.engine.coverage import LANES
from hanok.errors import ConfigError
from hanok.kernels.formats import GROUP
from hanok.kernels.native import address, native
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.kda import DeltaAttention
from hanok.models.linear import Linear, LowRank
from hanok.models.mla import LatentAttention
from hanok.models.mlp import GatedMLP, MixtureOfExperts, PlainMLP

# `Site` of adapters.h
_INPUT, _OUTPUT, _GATE_UP, _DOWN, _QUERIES, _DECAY, _GATE = range(7)
_RANKS = 4  # read together


class _Map(NamedTuple):
    """A packed matrix: the linear maps in it, and how their rows are arranged."""

    site: int
    parts: Sequence[Linear]
    arrange: Callable[[Sequence[Tensor]], Tensor]


def native_adapter(decoder: Decoder, lows: Mapping[str, LowRank]) -> Any:
    """Raises ConfigError for maps that the native kernels do not adapt."""
    by_linear = {decoder.get_submodule(where): low for where, low in lows.items()}
    made = native().Adapter(len(decoder.layers))
    for number, block in enumerate(decoder.layers):
        assert isinstance(block, Block)
        for site, parts, arrange in _maps(block):
            found = [by_linear.pop(part, None) for part in parts]
            if any(low is not None for low in found):
                _add(made, number, site, parts, found, arrange)
        mixer, mlp = block.self_attn, block.mlp
        if isinstance(mixer, LatentAttention) and (low := by_linear.pop(mixer.kv_b_proj, None)) is not None:
            _add_latent(made, number, mixer, low)
        gate = mlp.shared_gate if isinstance(mlp, MixtureOfExperts) else None
        if gate is not None and (low := by_linear.pop(gate, None)) is not None:
            weight = low.delta().flatten().contiguous()
            made.add_shared_gate(number, weight.numel(), address(weight))
    if decoder.lm_head is not None and (low := by_linear.pop(decoder.lm_head, None)) is not None:
        _add(made, len(decoder.layers), _INPUT, [decoder.lm_head], [low], _below)
    unused = set(decoder.mtp.modules())
    left = [where for where in lows if decoder.get_submodule(where) in by_linear.keys() - unused]
    if left:
        raise ConfigError(
            f"the native kernels do not adapt {left[0]}", remedy="run the model with weights = float32"
        )
    return made


def _maps(block: Block) -> Iterator[_Map]:
    mixer, mlp = block.self_attn, block.mlp
    if isinstance(mixer, GroupedQueryAttention):
        gated = mixer.config.attention_gate
        arrange = (lambda parts: gate_last(mixer, parts)) if gated else _below
        yield _Map(_INPUT, (mixer.q_proj, mixer.k_proj, mixer.v_proj), arrange)
    elif isinstance(mixer, LatentAttention):
        low = mixer.config.q_lora_rank is not None
        queries = mixer.q_a_proj if low else mixer.q_proj
        yield _Map(_INPUT, (queries, mixer.kv_a_proj_with_mqa), _below)
        if low:
            yield _Map(_QUERIES, (mixer.q_b_proj,), _below)
    else:
        assert isinstance(mixer, DeltaAttention)
        inputs = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.f_a_proj, mixer.g_a_proj, mixer.b_proj)
        yield _Map(_INPUT, inputs, _below)
        yield _Map(_DECAY, (mixer.f_b_proj,), _below)
        yield _Map(_GATE, (mixer.g_b_proj,), _below)
    yield _Map(_OUTPUT, (mixer.o_proj,), _below)
    dense = mlp.shared_experts if isinstance(mlp, MixtureOfExperts) else mlp
    if isinstance(dense, GatedMLP):
        yield _Map(_GATE_UP, (dense.gate_proj, dense.up_proj), lambda parts: in_turns(*parts))
    elif isinstance(dense, PlainMLP):
        yield _Map(_GATE_UP, (dense.up_proj,), lambda parts: padded(parts[0]))
    if isinstance(dense, (GatedMLP, PlainMLP)):
        yield _Map(_DOWN, (dense.down_proj,), _below)


def _below(parts: Sequence[Tensor]) -> Tensor:
    """One below the other."""
    return torch.cat(list(parts))


def _add(
    made: Any, layer: int, site: int, parts: Sequence[Linear], lows: Sequence[LowRank | None],
    arrange: Callable[[Sequence[Tensor]], Tensor],
) -> None:  # fmt: skip
    a_RK = torch.cat([low.lora_A for low in lows if low is not None])
    ranks = len(a_RK)
    a_RK = F.pad(a_RK, (0, -a_RK.shape[1] % GROUP, 0, -ranks % _RANKS)).to(torch.bfloat16).contiguous()
    columns, first = [], 0
    for part, low in zip(parts, lows, strict=True):
        rank = 0 if low is None else low.lora_A.shape[0]
        b = torch.zeros(part.weight.shape[0], ranks)
        if low is not None:
            b[:, first : first + rank] = low.scale * low.lora_B
        columns.append(b)
        first += rank
    b_NR = arrange(columns).to(torch.bfloat16)
    numbers, blocks = _by_block(F.pad(b_NR, (0, 0, 0, -b_NR.shape[0] % LANES)))
    made.add(
        layer,
        site,
        [a_RK.shape[1], a_RK.shape[0]],
        address(a_RK),
        address(numbers),
        blocks.flatten().tolist(),
    )


def _by_block(b_NR: Tensor) -> tuple[Tensor, Tensor]:
    """The ranks that each block of 16 outputs has, [.., 16], and of each block where they begin, the first, how many."""
    full_bRn = b_NR.unflatten(0, (-1, LANES)).transpose(1, 2)
    ranks = full_bRn.shape[1]
    used_bR = (full_bRn != 0).any(-1)
    first_b = used_bR.int().argmax(1)
    behind_b = torch.where(used_bR.any(1), ranks - used_bR.flip(1).int().argmax(1), first_b)
    rank_R = torch.arange(ranks)
    kept_bR = (rank_R >= first_b[:, None]) & (rank_R < behind_b[:, None])
    count_b = behind_b - first_b
    at_b = count_b.cumsum(0) - count_b
    return full_bRn[kept_bR].contiguous(), torch.stack([at_b, first_b, count_b], dim=1)


def _add_latent(made: Any, layer: int, mixer: LatentAttention, low: LowRank) -> None:
    b = (low.scale * low.lora_B).view(mixer.heads, mixer.nope + mixer.value, -1)
    key, value = (part.float().contiguous() for part in b.split([mixer.nope, mixer.value], dim=1))
    a, rank = low.lora_A.float().contiguous(), low.lora_A.shape[0]
    shape = [rank, mixer.latent, mixer.heads * mixer.nope, mixer.heads * mixer.value]
    made.add_latent(layer, shape, address(a), address(key), address(value))
