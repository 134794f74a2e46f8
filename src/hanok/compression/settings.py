"""What a compression is told: method, bits and groups, what is done to the weights before, and which maps differ from the rest.

Cheap to import: no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hanok.errors import ConfigError

Method = Literal["rtn", "hqq", "gptq", "awq", "none"]
Pruning = Literal["none", "magnitude", "wanda", "sparsegpt"]
GROUP = 32  # inputs that share a scale in the kernels; groups of files are multiples of it


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressConfig:
    """Args:
    bits: 2 to 8. group: inputs that share a scale, a multiple of 32; 0: all of a row. zeros: grids with zero points.
    head_bits: 4 or 8, what the engine rounds embedding and head to (in the file they stay plain); 0: as wide as the codes.
        16: measure as if they were not rounded.
    smooth: 0, or alpha of SmoothQuant: large inputs are made smaller, their weights larger. rotate: spread outliers by a
        random Hadamard rotation of the whole model.
    prune: set weights to 0 first: by size, by size and input, or making up for it. sparsity: a share of each row, or n:m.
    samples, length: windows of text to calibrate on, and tokens of each.
    held_out: windows to measure on. layer_windows: of them, to measure each layer alone on; 0 leaves that out.
    damp: part of the mean second moment that is added to all (gptq, sparsegpt). act_order: large inputs first (gptq).
    seed: of which windows are calibrated on, and of the rotation; those measured on are always the same.
    """

    bits: int = 4
    group: int = 32
    zeros: bool = False
    head_bits: int = 0
    smooth: float = 0.0
    rotate: bool = False
    prune: Pruning = "none"
    sparsity: str = "0.5"
    samples: int = 128
    length: int = 512
    held_out: int = 16
    layer_windows: int = 2
    damp: float = 0.01
    act_order: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits = {self.bits}", remedy="choose 2 to 8")
        if self.group < 0 or self.group % GROUP:
            raise ConfigError(
                f"group = {self.group}", remedy=f"choose a multiple of {GROUP}, or 0 for one scale a row"
            )
        if self.head_bits not in (0, 4, 8, 16):
            raise ConfigError(f"head_bits = {self.head_bits}", remedy="choose 4 or 8")
        if not 0 <= self.smooth <= 1:
            raise ConfigError(f"smooth = {self.smooth}", remedy="it must lie in [0, 1]; 0.5 is usual")
        _shares(self.sparsity)

    def fills(self, inputs: int) -> bool:
        """Whether rows of so many inputs consist of whole groups."""
        return inputs % (self.group or GROUP) == 0

    def group_of(self, inputs: int) -> int:
        """Inputs that share a scale in rows of so many."""
        return self.group or inputs

    @property
    def words(self) -> int:
        """Bits that a code has in the file."""
        return words_of(self.bits)

    @property
    def pruned(self) -> tuple[float, int, int]:
        """(share, n that go, m of them)."""
        return _shares(self.sparsity)


@dataclass(frozen=True, slots=True)
class Plan:
    """How every map of the layers is compressed. widths: bits of those that differ, by name (`layers.3.mlp.down_proj`)."""

    method: Method
    config: CompressConfig
    widths: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method == "none" and self.config.prune == "none":
            raise ConfigError('method "none" without pruning changes nothing', remedy="choose a method")

    @property
    def head_bits(self) -> int:
        """As the engine rounds embedding and head of the result."""
        if self.method == "none":
            return 16
        return self.config.head_bits or self.config.words

    def bits(self, name: str) -> int:
        return self.widths.get(name, self.config.bits)

    @property
    def calibrates(self) -> bool:
        """Whether it has to see what the maps read."""
        return (
            self.method in ("gptq", "awq")
            or self.config.smooth > 0
            or self.config.prune in ("wanda", "sparsegpt")
        )


def words_of(bits: int) -> int:
    """Codes of 2 to 4 bits lie in words of four, of 5 to 8 in words of eight: what the kernels take as it is."""
    return 4 if bits <= 4 else 8


def _shares(text: str) -> tuple[float, int, int]:
    try:
        if ":" in text:
            kept, of = (int(part) for part in text.split(":"))
            if not 0 < kept < of:
                raise ValueError
            return 0.0, of - kept, of
        share = float(text)
    except ValueError as error:
        raise ConfigError(
            f"sparsity = {text}", remedy='give a share like "0.5", or n of m like "2:4"'
        ) from error
    if not 0 < share < 1:
        raise ConfigError(f"sparsity = {text}", remedy="a share lies between 0 and 1")
    return share, 0, 0
