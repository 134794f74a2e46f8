"""Rounding to the nearest: the quantiser that looks at nothing but the weight. N outputs, K inputs."""

from __future__ import annotations

from torch import Tensor

from hanok.compression.grid import Codes, encode, find_grid


def rtn(weight_NK: Tensor, bits: int, group: int, *, symmetric: bool = True) -> Codes:
    """Raises ConfigError as `find_grid`."""
    return encode(weight_NK, find_grid(weight_NK, bits, group, symmetric=symmetric))
