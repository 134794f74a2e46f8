"""Attention of single tokens straight from a paged cache by FlexAttention, where PyTorch compiles it and it agrees.

S sequences with one token each, W blocks of a table, G key heads, R query heads that share one, K key width, V value width, T
rows of the cache, P its blocks.
"""

from __future__ import annotations

import torch

BLOCK = 64  # rows of the cache


def paged_flex(device: torch.device) -> None:
    return None
