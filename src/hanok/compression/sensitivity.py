"""What four bits cost where: KL to the original, were one group of maps rounded and nothing else; and which groups get eight.

A group is what the kernels multiply as one matrix: queries, keys and values; gate and up; and embedding with head ("ends").

T tokens, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hanok.compression.layers import takes_codes
from hanok.compression.measure import Head, RoundedTable, advance_rows, embedded, kl_of, predicted, rounded
from hanok.compression.rtn import rtn
from hanok.compression.settings import GROUP, CompressConfig
from hanok.errors import ConfigError
from hanok.kernels.memory import give_back
from hanok.models.coded import stored_parts
from hanok.models.decoder import Decoder
from hanok.models.linear import Linear
from hanok.reporting import progress

ENDS = "ends"
NARROW, WIDE, SCALE, ZERO = 4, 8, 0.5, 0.5  # bits of a code, and of its share of a scale and of a zero point
_JOINED = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"q_proj", "kv_a_proj_with_mqa"})


@dataclass(frozen=True, slots=True)
class Unit:
    """names: of maps (`layers.3.mlp.down_proj`), or `ENDS` alone. weights: numbers. kl: in nats a token, at four bits."""

    names: tuple[str, ...]
    weights: int
    kl: float


@torch.no_grad()
def sensitivities(original: Decoder, windows: Sequence[np.ndarray], config: CompressConfig) -> list[Unit]:
    """Of every group of maps that takes codes, rounded to the nearest at four bits."""
    lengths = [len(window) for window in windows]
    ids_T = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    inputs = [embedded(original, ids_T, lengths)]
    for block in original.layers:
        inputs.append(inputs[-1].clone())
        advance_rows(block, inputs[-1], lengths)
        give_back(stored_parts(original))
    measure = _Measure(original, lengths, ids_T, inputs, config)
    groups = [(n, names) for n, block in enumerate(original.layers) for names in joined_maps(block, config)]
    found = []
    with progress("sensitivity", len(groups) + 1, "groups of maps") as bar:
        for layer, names in groups:
            maps = [original.layers[layer].get_submodule(name) for name in names]
            full = tuple(f"layers.{layer}.{name}" for name in names)
            numbers = sum(one.get_parameter("weight").numel() for one in maps)
            found.append(Unit(full, numbers, measure.with_rounded(layer, maps)))
            bar.advance(1)
        ends = original.embed_tokens.weight.numel() * (1 if original.lm_head is None else 2)
        found.append(Unit((ENDS,), ends, measure.with_rounded_ends()))
        bar.advance(1)
    return found


def joined_maps(block: nn.Module, config: CompressConfig) -> list[tuple[str, ...]]:
    """Names within a block of the maps that take codes, those together that the kernels join."""
    names = [
        name for name, one in block.named_modules() if isinstance(one, Linear) and takes_codes(name, one, config)
    ]  # fmt: skip
    found: dict[tuple[str, int], list[str]] = {}
    for number, name in enumerate(names):
        parent, _, last = name.rpartition(".")
        kind = next((k for k, several in enumerate(_JOINED) if last in several), len(_JOINED) + number)
        found.setdefault((parent, kind), []).append(name)
    return [tuple(several) for several in found.values()]


def shared_bits(config: CompressConfig) -> float:
    """A code's share of its scale and zero point; embedding and head have scales alone."""
    return SCALE + (ZERO if config.zeros else 0.0)


def allot(units: Sequence[Unit], target: float, shared: float = SCALE) -> Mapping[str, int]:
    """Widths by name, `ENDS` among them, so that the mean over all weights is at most `target` bits, scales and zero points
    counted: eight for the groups that take away the most KL together, were what they cost alone to add up.

    Args:
        shared: as `shared_bits`.

    Raises:
        ConfigError: a target below four bits and what they share.
    """
    total = sum(unit.weights for unit in units)
    least = (
        sum(unit.weights * (NARROW + (SCALE if unit.names[0] == ENDS else shared)) for unit in units) / total
    )
    room = (target - least) * total
    if room < -1e-6 * total:
        raise ConfigError(
            f"a target of {target:.2f} bits a weight is below the {least:.3g} of the narrowest codes that the engine runs"
            + (", with zero points" if shared > SCALE else ""),
            remedy="take a smaller model: hanok compress --shrink, or hanok align distill",
        )
    wide = _dearest(units, room / (WIDE - NARROW))
    return {name: WIDE if unit in wide else NARROW for unit in units for name in unit.names}


def _dearest(units: Sequence[Unit], most: float) -> Sequence[Unit]:
    """The groups of at most so many weights in all whose KL adds up to the most: a knapsack, filled cell by cell."""
    if sum(unit.weights for unit in units) <= most * (1 + 1e-6):
        return units
    cell = max(math.gcd(*(unit.weights for unit in units)), int(most) >> 16, 1)
    room = int(most * (1 + 1e-6)) // cell
    best, taken = np.zeros(room + 1), np.zeros((len(units), room + 1), dtype=bool)
    for number, unit in enumerate(units):
        size = -(-unit.weights // cell)
        if size > room:
            continue
        with_it = best[: room + 1 - size] + unit.kl
        taken[number, size:] = with_it > best[size:]
        best[size:] = np.maximum(best[size:], with_it)
    found: list[Unit] = []
    for number, unit in reversed(list(enumerate(units))):
        if taken[number, room]:
            found.append(unit)
            room -= -(-unit.weights // cell)
    return found


@dataclass(frozen=True, slots=True)
class _Measure:
    decoder: Decoder
    lengths: list[int]
    ids_T: Tensor
    inputs: list[Tensor]
    config: CompressConfig

    def with_rounded(self, layer: int, maps: Sequence[nn.Module]) -> float:
        own = [one.get_parameter("weight") for one in maps]
        for one, weight in zip(maps, own, strict=True):
            one.register_parameter("weight", nn.Parameter(self._rounded(weight), requires_grad=False))
        x_TD = self.inputs[layer].clone()
        advance_rows(self.decoder.layers[layer], x_TD, self.lengths)
        for one, weight in zip(maps, own, strict=True):
            one.register_parameter("weight", weight)
        return self._to_the_end(x_TD, layer + 1, 16)

    def _rounded(self, weight: Tensor) -> Tensor:
        if not self.config.zeros:
            return rounded(weight, NARROW)
        return rtn(weight.detach(), NARROW, GROUP, symmetric=False).values()

    def with_rounded_ends(self) -> float:
        own = self.decoder.embed_tokens
        self.decoder.embed_tokens = RoundedTable(own, NARROW)  # pyright: ignore[reportAttributeAccessIssue]
        x_TD = embedded(self.decoder, self.ids_T, self.lengths)
        self.decoder.embed_tokens = own
        return self._to_the_end(x_TD, 0, NARROW)

    def _to_the_end(self, x_TD: Tensor, layer: int, head_bits: int) -> float:
        for block in self.decoder.layers[layer:]:
            advance_rows(block, x_TD, self.lengths)
            give_back(stored_parts(self.decoder))
        own, other = Head(self.decoder, 16), Head(self.decoder, head_bits)
        own_TD, other_TD = self.decoder.norm(self.inputs[-1]), self.decoder.norm(x_TD)
        rows_T, _ = predicted(self.ids_T, self.lengths)
        parts = [kl_of(own(own_TD[rows]), other(other_TD[rows])) for rows in rows_T.split(own.rows)]
        return float(torch.cat(parts).double().mean())
