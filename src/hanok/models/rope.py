"""Rotary position embedding (arXiv 2104.09864) and its stretched forms.

N tokens, R rotating channels of a head, F = R/2 frequencies.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hanok.models.config import RopeScaling
from hanok.models.ragged import Ragged


@dataclass(frozen=True)
class Rotary:
    """Rotates the first `width` channels of each head, the rest passes.

    Args:
        interleaved: pairs are neighbours (DeepSeek) instead of half a head apart (Llama).
        context: tokens of the model's context; "dynamic" stretches what is longer.
    """

    theta: float
    width: int
    context: int
    scaling: RopeScaling | None = None
    interleaved: bool = False

    def __call__(self, x_NHK: Tensor, ragged: Ragged) -> Tensor:
        cos, sin = ragged.remember(self, self._angles)
        part, rest = x_NHK[..., : self.width].float(), x_NHK[..., self.width :]
        if self.interleaved:
            a, b = part[..., 0::2], part[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        else:
            a, b = part.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        turned = turned.to(x_NHK.dtype)
        return turned if rest.shape[-1] == 0 else torch.cat([turned, rest], dim=-1)

    def _angles(self, ragged: Ragged) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 1, F], times the attention factor."""
        if self.scaling is not None and self.scaling.kind in ("dynamic", "longrope"):
            ends = ragged.ends.tolist()
            frequency = torch.stack([self.frequencies(end) for end in ends]).to(ragged.device)[
                ragged.sequence_N
            ]
        else:
            frequency = _held_frequencies(self, ragged.device)
        angle = (ragged.positions_N[:, None].float() * frequency)[:, None]
        factor = self.attention_factor
        return angle.cos() * factor, angle.sin() * factor

    def frequencies(self, length: int) -> Tensor:
        """Radians a token [F], float32, for a sequence of `length` tokens (dynamic and longrope depend on it);
        computed on the CPU, so that they are the same everywhere."""
        scaling = self.scaling
        if scaling is None:
            return _inverse(self.theta, self.width)
        if scaling.kind == "linear":
            return _inverse(self.theta, self.width) / scaling.factor
        if scaling.kind == "dynamic":
            stretch = scaling.factor * max(length, self.context) / self.context - (scaling.factor - 1)
            return _inverse(self.theta * stretch ** (self.width / (self.width - 2)), self.width)
        if scaling.kind == "llama3":
            return _llama3(_inverse(self.theta, self.width), scaling)
        if scaling.kind == "yarn":
            return self._yarn(scaling)
        factors = scaling.long_factor if length > scaling.original_context else scaling.short_factor
        return _inverse(self.theta, self.width) / torch.tensor(factors, device="cpu")

    @property
    def attention_factor(self) -> float:
        """On cosines and sines, so on every score squared."""
        scaling = self.scaling
        if scaling is None or scaling.kind not in ("yarn", "longrope"):
            return 1.0
        if scaling.attention_factor is not None:
            return scaling.attention_factor
        if scaling.kind == "longrope":
            ratio = scaling.factor
            return 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(scaling.original_context))
        if scaling.mscale and scaling.mscale_all_dim:
            return yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(
                scaling.factor, scaling.mscale_all_dim
            )
        return yarn_mscale(scaling.factor, 1.0)

    def _yarn(self, scaling: RopeScaling) -> Tensor:
        """Fast rotations stay, slow ones are stretched, a ramp between (arXiv 2309.00071, section 3.2)."""

        def channel(rotations: float) -> float:
            """Where a frequency makes so many turns over the original context."""
            turns = scaling.original_context / (rotations * 2 * math.pi)
            return self.width * math.log(turns) / (2 * math.log(self.theta))

        low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.width - 1)
        step = torch.arange(self.width // 2, dtype=torch.float32, device="cpu")
        ramp = ((step - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        plain = _inverse(self.theta, self.width)
        return plain / scaling.factor * ramp + plain * (1 - ramp)


@functools.lru_cache(maxsize=64)
def _held_frequencies(rotary: Rotary, device: torch.device) -> Tensor:
    """On their device once and for all: copying them there in every step would wait for it."""
    with torch.inference_mode(False):
        return rotary.frequencies(rotary.context).to(device)


def yarn_mscale(factor: float, weight: float) -> float:
    """Attention grows with the logarithm of the stretch."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _inverse(theta: float, width: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Long waves are stretched, short ones stay, those between are mixed."""
    turns = scaling.original_context * plain / (2 * math.pi)
    mix = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    mix = mix.clamp(0, 1)
    return plain / scaling.factor * (1 - mix) + plain * mix
