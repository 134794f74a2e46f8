"""Attention of single tokens straight from a paged cache by FlexAttention: nothing is gathered first.

Block tables become a block mask over the whole cache. Compiled it reads the tables' blocks alone; as it is, every score is
computed, which is for comparisons on small caches.

S sequences with one token each, W blocks of a table, C of them that are read, G key heads, R query heads that share one, K key
width, V value width, T rows of the cache, P its blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from hanok.reporting import log

BLOCK = 64  # rows of the cache
_CLOSE = 2e-2  # of the largest number


def flex_single(
    q_SGRK: Tensor, k_TGK: Tensor, v_TGV: Tensor, tables_SW: Tensor, last_S: Tensor, window: int | None, scale: float
) -> Tensor:  # fmt: skip
    """o_SGRV. Rows of a block behind the last token must be numbers.

    Args:
        tables_SW: int64. last_S: position of each token. window: tokens that it sees, itself included.
    """
    blocks, width = k_TGK.shape[0] // BLOCK, tables_SW.shape[1]
    column_W = torch.arange(width, device=last_S.device)
    used_SW = column_W <= last_S[:, None] // BLOCK
    logical_SP = torch.full((len(last_S), blocks + 1), -1, device=last_S.device)
    logical_SP = logical_SP.scatter(1, torch.where(used_SW, tables_SW, blocks), column_W.expand_as(tables_SW))

    def sees(sequence: Tensor, _head: Tensor, _query: Tensor, row: Tensor) -> Tensor:
        block = logical_SP[sequence, row // BLOCK]
        position = block * BLOCK + row % BLOCK
        seen = (block >= 0) & (position <= last_S[sequence])
        return seen if window is None else seen & (position > last_S[sequence] - window)

    first_S = torch.zeros_like(last_S) if window is None else (last_S - window + 1).clamp(min=0) // BLOCK
    column_SW = (first_S[:, None] + column_W).clamp(max=width - 1)
    indices = torch.zeros(len(last_S), 1, 1, blocks, dtype=torch.int32, device=last_S.device)
    indices[:, 0, 0, :width] = tables_SW.gather(1, column_SW).to(torch.int32)
    counts = (last_S // BLOCK - first_S + 1).to(torch.int32)[:, None, None]
    mask = BlockMask.from_kv_blocks(
        counts, indices, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees, seq_lengths=(1, blocks * BLOCK),
        compute_q_blocks=False,
    )  # fmt: skip
    keys, values = (x.transpose(0, 1)[None] for x in (k_TGK, v_TGV))
    q_SH1K = q_SGRK.flatten(1, 2)[:, :, None]
    o_SH1V: Any = flex_attention(q_SH1K, keys, values, block_mask=mask, scale=scale, enable_gqa=True)
    return o_SH1V[:, :, 0].unflatten(1, q_SGRK.shape[1:3])


compiled_flex = torch.compile(
    flex_single, dynamic=True, fullgraph=True
)  # nothing is compiled before the first call


@functools.cache
def flex_agrees(
    heads: int, shared: int, key: int, value: int, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether it compiles for these heads and gives the numbers of `flex_single` there; one log line says so.

    Args:
        heads: that keys have. shared: query heads that share one.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    q, k = drawn(2, heads, shared, key), drawn(4 * BLOCK, heads, key)
    v = drawn(4 * BLOCK, heads, value)
    tables, last = torch.tensor([[2, 0], [1, 3]], device=device), torch.tensor([70, 5], device=device)
    inputs = (q, k, v, tables, last, None, key**-0.5)
    try:
        found, expected = compiled_flex(*inputs).float(), flex_single(*inputs).float()
    except Exception as why:  # what a compiler of kernels raises is not known beforehand
        log.warning("single tokens attend by a gather: FlexAttention fails here (%s)", str(why)[:300])
        return False
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < _CLOSE:
        log.warning(
            "single tokens attend by a gather: FlexAttention is off by %.2g of the largest number", error
        )
        return False
    log.info("single tokens attend by FlexAttention, which agrees within %.1g", error)
    return True
