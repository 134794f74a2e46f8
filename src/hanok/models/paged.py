"""Attention to keys and values that lie in blocks of a cache which all sequences share.

A sequence's block table says where its tokens are: token p lies in row `table[p // BLOCK] * BLOCK + p % BLOCK`. Sequences that
bring one token are attended for together, the others one by one. The rows that they need are gathered, then PyTorch's own
attention runs over them, or FlexAttention where the caller gives it (`hanok.kernels.flex`).

N tokens, B sequences, S of them with one token, W blocks of a table, C of them that are read, T tokens, G key heads, R query
heads that share one, K key width, V value width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.models.attention import CACHE_BLOCK as BLOCK
from hanok.models.attention import Scoring, attend, causal_mask

# (q_SGRK, k_TGK, v_TGV, tables_SW, last_S, window, scale) -> o_SGRV; see `hanok.kernels.flex`
Flex = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int | None, float], Tensor]


class BlockPages:
    """Args:
    tables_BW: blocks of each sequence, int64, filled up with any. positions_N, sequence_N: of each token.
    lengths: tokens that each sequence brings. seen: those that it had before; may be left out where all bring one.
    flex: attention of single tokens without a gather, where PyTorch's own computes the scores. It reads blocks to their ends,
    so these are cleared when they are begun.
    """

    def __init__(
        self, tables_BW: Tensor, positions_N: Tensor, sequence_N: Tensor, lengths: Sequence[int],
        seen: Sequence[int] | None = None, *, flex: Flex | None = None,
    ) -> None:  # fmt: skip
        self._tables_BW, self._positions_N, self._flex = tables_BW, positions_N, flex
        self._lengths, self._seen = lengths, seen
        self._rows_N = tables_BW[sequence_N, positions_N // BLOCK] * BLOCK + positions_N % BLOCK
        self._singles = [b for b, length in enumerate(lengths) if length == 1]
        self._gathered: dict[int | None, tuple[Tensor, Tensor]] = {}

    def write(self, cache: Tensor, new_Nx: Tensor) -> None:
        """The new tokens' rows into the cache [T of all blocks, ...]."""
        if self._flex is not None:
            begun_N1 = (self._positions_N % BLOCK == 0)[:, None]
            offset = torch.arange(BLOCK, device=cache.device)
            cleared = torch.where(begun_N1, self._rows_N[:, None] + offset, self._rows_N[:, None])
            cache.index_fill_(0, cleared.flatten(), 0.0)
        cache.index_copy_(0, self._rows_N, new_Nx.to(cache.dtype))

    def attend(self, q_NHK: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        """Args: k, v: the cache, [T of all blocks, G, K or V]; values may be the beginning of the keys (MLA)."""
        if len(self._singles) == len(self._lengths):
            return self._one_each(q_NHK, k, v, scoring)
        output = q_NHK.new_empty(*q_NHK.shape[:2], v.shape[2])
        firsts, first = [], 0
        for b, length in enumerate(self._lengths):
            firsts.append(first)
            if length > 1:
                output[first : first + length] = self._piece(b, q_NHK[first : first + length], k, v, scoring)
            first += length
        if self._singles:
            rows = torch.tensor([firsts[b] for b in self._singles], device=q_NHK.device)
            output[rows] = self._one_each(q_NHK[rows], k, v, scoring)
        return output

    def _piece(self, b: int, q_LHK: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        """Several tokens of one sequence, behind all that it has seen."""
        assert self._seen is not None
        seen, length = self._seen[b], len(q_LHK)
        blocks = self._tables_BW[b, : -(-(seen + length) // BLOCK)]
        rows_T = (blocks[:, None] * BLOCK + torch.arange(BLOCK, device=k.device)).flatten()[: seen + length]
        keys, values = (x.transpose(0, 1)[None] for x in _gather(k, v, rows_T))
        cut = scoring.window is not None and seen + length > scoring.window
        mask = causal_mask(seen, length, scoring.window, k.device) if seen or cut else None
        return attend(q_LHK.transpose(0, 1)[None], keys, values, mask, scoring)[0].transpose(0, 1)

    def _one_each(self, q_SHK: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        """Neither a loop nor a number that the host would have to know: a CUDA graph can hold it."""
        q_SGRK = q_SHK.unflatten(1, (k.shape[1], -1))
        if self._flex is not None and scoring.plain:
            tables_SW, last_S = self._of_singles()
            o_SGRV = self._flex(q_SGRK, k, v, tables_SW, last_S, scoring.window, scoring.scale)
            return o_SGRV.flatten(1, 2)
        rows_ST, seen_ST = self._rows_of_singles(scoring.window)
        keys, values = (
            x.unflatten(0, rows_ST.shape).transpose(1, 2) for x in _gather(k, v, rows_ST.flatten())
        )
        if scoring.plain:
            mask = seen_ST[:, None, None]
            return F.scaled_dot_product_attention(
                q_SGRK, keys, values, attn_mask=mask, scale=scoring.scale
            ).flatten(1, 2)
        products_SHT = (q_SGRK @ keys.transpose(2, 3)).flatten(1, 2)
        weights_SHT = scoring.weights(products_SHT[:, :, None], seen_ST[:, None, None])[:, :, 0]
        return (weights_SHT.unflatten(1, q_SGRK.shape[1:3]).to(values.dtype) @ values).flatten(1, 2)

    def _of_singles(self) -> tuple[Tensor, Tensor]:
        """Their tables [S, W], no wider than the longest needs, and the position of their one token [S]."""
        if len(self._singles) == len(self._lengths):
            return self._tables_BW, self._positions_N
        assert self._seen is not None
        device, seen = self._tables_BW.device, [self._seen[b] for b in self._singles]
        width = max(seen) // BLOCK + 1
        tables = self._tables_BW[torch.tensor(self._singles, device=device), :width]
        return tables, torch.tensor(seen, device=device)

    def _rows_of_singles(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Rows of the cache that they read [S, T], and which of these they see."""
        if window not in self._gathered:
            tables_SW, last_S = self._of_singles()
            width = tables_SW.shape[1]
            column_SC = torch.arange(width, device=tables_SW.device).expand(len(last_S), -1)
            if window is not None and -(-window // BLOCK) + 1 < width:
                first_S1 = (last_S[:, None] - window + 1).clamp(min=0) // BLOCK
                column_SC = first_S1 + column_SC[:, : -(-window // BLOCK) + 1]
            offset = torch.arange(BLOCK, device=tables_SW.device)
            block_SC = tables_SW.gather(1, column_SC.clamp(max=width - 1))
            rows_ST = (block_SC[..., None] * BLOCK + offset).flatten(1)
            position_ST = (column_SC[..., None] * BLOCK + offset).flatten(1)
            seen_ST = position_ST <= last_S[:, None]
            if window is not None:
                seen_ST &= position_ST > last_S[:, None] - window
            own_S1 = tables_SW.gather(1, last_S[:, None] // BLOCK) * BLOCK + last_S[:, None] % BLOCK
            rows_ST = torch.where(seen_ST, rows_ST, own_S1)  # what others left there may be no numbers
            self._gathered[window] = rows_ST, seen_ST
        return self._gathered[window]


def _gather(k: Tensor, v: Tensor, rows_T: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of keys and values; values that begin where the keys do are read once."""
    keys = k.index_select(0, rows_T)
    if v.data_ptr() == k.data_ptr():
        return keys, keys[..., : v.shape[2]]
    return keys, v.index_select(0, rows_T)
