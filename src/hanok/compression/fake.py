"""What coarser activations and caches would cost: numbers rounded and turned back at once, for measurements.

The engine runs eight-bit caches and eight-bit inputs in groups of 32; four bits of either are measured here and run nowhere.

N tokens, G key heads, K width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hanok.compression.rotation import hadamard
from hanok.errors import ConfigError
from hanok.models.decoder import Block, Decoder
from hanok.models.gqa import GroupedQueryAttention
from hanok.models.linear import Linear
from hanok.models.mlp import GatedMLP

_CACHE_GROUP = 32


def round_rows(x: Tensor, bits: int) -> Tensor:
    """Symmetric, one scale for each vector along the last axis."""
    top = (1 << (bits - 1)) - 1
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / top
    return (x / scale).round().clamp(-top - 1, top) * scale


def round_cache(x_NGK: Tensor, bits: int) -> Tensor:
    """Eight bits: as the engine, one scale for each token and head. Fewer: scale and lowest number for each 32 of a head."""
    if bits == 8:
        return round_rows(x_NGK, 8)
    groups = x_NGK.unflatten(-1, (-1, min(_CACHE_GROUP, x_NGK.shape[-1])))
    low = groups.amin(-1, keepdim=True)
    scale = (groups.amax(-1, keepdim=True) - low).clamp(min=1e-12) / ((1 << bits) - 1)
    return (((groups - low) / scale).round() * scale + low).flatten(-2)


@contextmanager
def rounded_cache(decoder: Decoder, bits: int) -> Iterator[None]:
    """While it is open, attention sees keys and values of so many bits. Raises ConfigError: mixers that are not grouped-query."""
    mixers = [block.get_submodule("self_attn") for block in decoder.layers]
    mixers = [mixer for mixer in mixers if isinstance(mixer, GroupedQueryAttention)]
    if len(mixers) < len(decoder.layers):
        raise _not_here("caches of layers that are no grouped-query attention")
    for mixer in mixers:
        mixer.on_cache = lambda x_NGK: round_cache(x_NGK, bits)
    try:
        yield
    finally:
        for mixer in mixers:
            mixer.on_cache = None


@contextmanager
def rounded_inputs(decoder: Decoder, bits: int) -> Iterator[None]:
    """While it is open, the maps of attention and gated feed-forward read vectors of so many bits.

    Raises:
        ConfigError: other layers.
    """

    def behind(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return round_rows(out, bits)

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (round_rows(args[0], bits), *args[1:])

    handles = []
    for block in decoder.layers:
        assert isinstance(block, Block)
        attention, mlp = block.self_attn, block.mlp
        if not isinstance(attention, GroupedQueryAttention) or not isinstance(mlp, GatedMLP):
            raise _not_here("inputs of layers without grouped-query attention and a gated feed-forward")
        norms = (block.input_layernorm, block.post_attention_layernorm)  # what joined maps read
        handles += [norm.register_forward_hook(behind) for norm in norms]
        maps = (attention.o_proj, mlp.down_proj)
        handles += [one.register_forward_pre_hook(before) for one in maps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _not_here(what: str) -> ConfigError:
    return ConfigError(f"{what} are not rounded here", remedy="leave out --input-bits and --cache-bits")


def turn_inner(block: Block) -> None:
    """QuaRot's online rotation (R4): what `down_proj` reads is turned when it is read, and its weight beforehand; the function
    stays. Before `rounded_inputs`, which rounds what is turned."""
    turn_inner_weight(block)
    turn_inner_inputs(block)


@torch.no_grad()
def turn_inner_weight(block: Block) -> None:
    down, turn_KK = _inner(block)
    down.weight = nn.Parameter(down.weight.float() @ turn_KK, requires_grad=False)


def turn_inner_inputs(block: Block) -> None:
    down, turn_KK = _inner(block)
    down.register_forward_pre_hook(lambda _, args: (args[0] @ turn_KK, *args[1:]))


def _inner(block: Block) -> tuple[Linear, Tensor]:
    assert isinstance(block.mlp, GatedMLP)
    down = block.mlp.down_proj
    width = down.weight.shape[1]
    return down, (hadamard(width) / width**0.5).float()
