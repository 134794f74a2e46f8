"""Who holds what of a model that several processes run: heads, columns of feed-forwards, rows of the vocabulary.

As in Megatron-LM (arXiv 1909.08053): a process has whole heads and whole hidden channels, its part of the layer's output
is a summand, and one sum over the processes ends every mixer and every feed-forward. What a process computes is then a
smaller model: `local_config` describes it, so layers and caches get their sizes from there and know of nothing. Experts are
split like any feed-forward, each process has some channels of every one: no routing makes one of them wait for another.
Norms, routers, latents and low-rank gates are small and whole everywhere. Key heads that are fewer than the processes are
held by several.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from hanok.errors import ConfigError
from hanok.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Share:
    """Args: rank: of this process, from 0. size: how many there are."""

    rank: int
    size: int

    def part(self, whole: int) -> slice:
        """Neighbours; the lengths of two processes differ by one at most."""
        return slice(whole * self.rank // self.size, whole * (self.rank + 1) // self.size)

    def length(self, whole: int) -> int:
        part = self.part(whole)
        return part.stop - part.start

    def heads(self, width: int, heads: int) -> slice:
        """Channels of this process's heads, of `width` in all; of one head where there are fewer than processes."""
        if heads >= self.size:
            return self.part(width)
        own = self.rank * heads // self.size
        return slice(width // heads * own, width // heads * (own + 1))


def local_config(config: ModelConfig, share: Share) -> ModelConfig:
    """The model that one process computes. Its layers for training alone are left out.

    Raises:
        ConfigError: heads that cannot be dealt out evenly, or fewer channels than processes.
    """
    check_shares(config, share.size)
    moe = config.moe
    if moe is not None:
        shared = moe.shared_width or moe.width * moe.shared
        moe = dataclasses.replace(
            moe, width=share.length(moe.width), shared_width=share.length(shared) if moe.shared else None
        )
    return dataclasses.replace(
        config, vocab_size=share.length(config.vocab_size), head_dim=config.dim_of_head, moe=moe, mtp_layers=0,
        num_heads=config.num_heads // share.size, num_kv_heads=max(1, config.kv_heads // share.size),
        intermediate_size=share.length(config.mlp_width),
        linear_key_heads=max(1, config.linear_key_heads // share.size),
        linear_value_heads=max(1, config.linear_value_heads // share.size),
    )  # fmt: skip


def check_shares(config: ModelConfig, size: int) -> None:
    """Raises ConfigError if so many processes cannot share this model."""
    kinds, moe = set(config.layers), config.moe
    if kinds - {"gdn"}:
        _check_even("heads", config.num_heads, size)
    if kinds & {"gqa", "swa"}:
        _check_held("key heads", config.kv_heads, size)
    if "gdn" in kinds:
        _check_even("value heads of delta layers", config.linear_value_heads, size)
        _check_held("key heads of delta layers", config.linear_key_heads, size)
    widths = [
        ("channels of the feed-forward", config.mlp_width),
        ("tokens of the vocabulary", config.vocab_size),
    ]
    if moe is not None:
        widths.append(("channels of an expert", moe.width))
    for what, width in widths:
        if width < size:
            raise ConfigError(f"{width} {what} for {size} processes", remedy="start fewer processes")
    if config.qk_norm_whole and config.norm == "layer":
        raise ConfigError(
            "layer norms over all heads together are not shared among processes", remedy="use one process"
        )


def _check_even(what: str, heads: int, size: int) -> None:
    if heads % size:
        raise ConfigError(
            f"{heads} {what} cannot be dealt out evenly to {size} processes",
            remedy=f"start {_divisors(heads)} processes",
        )


def _check_held(what: str, heads: int, size: int) -> None:
    """Dealt out evenly, or each held by as many processes as any other."""
    if heads % size and size % heads:
        raise ConfigError(
            f"{heads} {what} for {size} processes: neither divides the other",
            remedy=f"start {_divisors(heads)} processes",
        )


def _divisors(number: int) -> str:
    found = [str(n) for n in range(1, number + 1) if number % n == 0]
    return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


# which units the outputs (dimension 0) of a mixer's parts consist of; what is not named is whole everywhere
_ROWS = {
    "gqa": {"q_proj": "heads", "k_proj": "keys", "v_proj": "keys", "sinks": "heads"},
    "mla": {"q_proj": "heads", "q_b_proj": "heads", "kv_b_proj": "heads"},
    "kda": dict.fromkeys(
        (
            "q_proj", "k_proj", "v_proj", "q_conv1d", "k_conv1d", "v_conv1d", "f_b_proj", "b_proj", "g_b_proj", "dt_bias",
        ),
        "heads",
    ),
    "gdn": {
        "q_proj": "delta keys", "k_proj": "delta keys",
        **dict.fromkeys(("v_proj", "z_proj", "b_proj", "a_proj", "A_log", "dt_bias"), "delta values"),
    },
}  # fmt: skip
_ENDS = ("o_proj", "out_proj", "down_proj")  # maps whose inputs are dealt out: their outputs are summands


def cut(name: str, whole: Tensor, config: ModelConfig, share: Share) -> Tensor:
    """What a process holds of a tensor, by its name in `Decoder.state_dict()`: a view, or zeros for a bias that the first
    process adds for all.

    Args:
        config: of the whole model.
    """
    if name in ("embed_tokens.weight", "lm_head.weight"):
        return whole[share.part(len(whole))]
    match = re.fullmatch(r"layers\.(\d+)\.(self_attn|mlp)\.(.*)", name)
    if match is None:
        return whole
    part = match[3].removesuffix(".weight").removesuffix(".bias").replace("_proj_bias", "_proj")
    if part.endswith(_ENDS):
        return _of_end(match[3], whole, share)
    if match[2] == "mlp":
        return _of_feed_forward(part, whole, share)
    return _of_mixer(part, whole, config, config.layers[int(match[1])], share)


def _of_end(name: str, whole: Tensor, share: Share) -> Tensor:
    if name.endswith("bias"):
        return whole if share.rank == 0 else torch.zeros_like(whole)
    return whole[..., share.part(whole.shape[-1])]


def _of_feed_forward(part: str, whole: Tensor, share: Share) -> Tensor:
    if part == "experts.gate_up_proj":  # [E, gates then ups, ...]
        gate, up = whole.chunk(2, dim=1)
        own = share.part(gate.shape[1])
        return torch.cat([gate[:, own], up[:, own]], dim=1)
    if part.endswith(("gate_proj", "up_proj")):
        return whole[share.part(len(whole))]
    return whole


def _of_mixer(part: str, whole: Tensor, config: ModelConfig, kind: str, share: Share) -> Tensor:
    kind = "gqa" if kind == "swa" else kind
    if kind == "gdn" and part == "conv1d":  # keys, keys, values, one behind the other
        keys = config.linear_key_heads * config.linear_key_dim
        segments = whole.split([keys, keys, len(whole) - 2 * keys])
        units = ("delta keys", "delta keys", "delta values")
        return torch.cat(
            [x[_channels(x, unit, config, share)] for x, unit in zip(segments, units, strict=True)]
        )
    if kind == "kda" and part == "A_log":  # [1, 1, H, 1]
        return whole[:, :, share.part(whole.shape[2])]
    if kind == "gqa" and part in ("q_norm", "k_norm") and config.qk_norm_whole:
        return whole[_channels(whole, "heads" if part == "q_norm" else "keys", config, share)]
    unit = _ROWS[kind].get(part)
    return whole if unit is None else whole[_channels(whole, unit, config, share)]


def _channels(whole: Tensor, unit: str, config: ModelConfig, share: Share) -> slice:
    heads = {
        "heads": config.num_heads, "keys": config.kv_heads, "delta keys": config.linear_key_heads,
        "delta values": config.linear_value_heads,
    }[unit]  # fmt: skip
    return share.heads(len(whole), heads)
