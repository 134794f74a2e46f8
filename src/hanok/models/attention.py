"""Scaled dot-product attention over a ragged batch, and its cache.

N tokens, B sequences, H query heads, G key/value heads, K key width, V value width, T cached tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.models.ragged import Ragged

CACHE_BLOCK = 64  # tokens
# lengths at which blocks of queries beat PyTorch's attention in bfloat16 (docs/log.md)
_QUERY_BLOCK, _SHORTEST_BLOCKED, _LONGEST_BLOCKED = 128, 256, 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """How scores are made: `scale` on the products; `window` tokens that are seen, the current one included; `softcap` c
    gives c tanh(x / c); `sinks_H` are logits that take weight and give nothing (gpt-oss)."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks_H: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether PyTorch's own attention computes it."""
        return self.softcap is None and self.sinks_H is None

    def weights(self, products_BHLT: Tensor, seen: Tensor) -> Tensor:
        """Softmax weights, float32, of raw products; `seen` is broadcast."""
        scores = products_BHLT.float() * self.scale
        if self.softcap is not None:
            scores = self.softcap * (scores / self.softcap).tanh()
        scores = scores.masked_fill(~seen, -torch.inf)
        if self.sinks_H is None:
            return scores.softmax(-1)
        sinks = self.sinks_H.float()[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([sinks, scores], dim=-1).softmax(-1)[..., 1:]


def ragged_attention(q_NHK: Tensor, k_NGK: Tensor, v_NGV: Tensor, ragged: Ragged, scoring: Scoring) -> Tensor:
    """Causal attention within each sequence."""
    output = q_NHK.new_zeros(q_NHK.shape[0], q_NHK.shape[1], v_NGV.shape[2])
    window = scoring.window
    for bucket in ragged.buckets:
        q, k, v = (_gathered(x, bucket.slots_nL).transpose(1, 2) for x in (q_NHK, k_NGK, v_NGV))
        cut = window is not None and q.shape[2] > window
        mask = causal_mask(0, q.shape[2], window, q.device) if cut else None
        o = attend(q, k, v, mask, scoring)
        real = o.transpose(1, 2).reshape(-1, *output.shape[1:])[bucket.cells_T]
        output = output.index_copy(0, bucket.tokens_T, real)
    return output


def _gathered(x_NHK: Tensor, slots_nL: Tensor) -> Tensor:
    """[n, L, H, K]; by rows, whose gradient is a plain sum where that of indexing sorts first."""
    return x_NHK.index_select(0, slots_nL.flatten()).unflatten(0, slots_nL.shape)


def cached_attention(
    q_NHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, ragged: Ragged, scoring: Scoring
) -> Tensor:
    """Attention of new tokens to everything cached (their own keys and values already written)."""
    if ragged.pages is not None:
        return ragged.pages.attend(q_NHK, k_BTGK, v_BTGV, scoring)
    assert ragged.offsets_B is not None
    outputs = []
    if ragged.one_each:
        return _decode(q_NHK, k_BTGK, v_BTGV, ragged, scoring)
    for b, length in enumerate(ragged.lengths):
        start, seen = ragged.bounds[b], int(ragged.offsets_B[b])
        q = q_NHK[start : start + length].transpose(0, 1)[None]
        k, v = (x[b, : seen + length].transpose(0, 1)[None] for x in (k_BTGK, v_BTGV))
        o = attend(q, k, v, causal_mask(seen, length, scoring.window, q.device), scoring)
        outputs.append(o[0].transpose(0, 1))
    return torch.cat(outputs)


def attend(
    q_BHLK: Tensor, k_BGTK: Tensor, v_BGTV: Tensor, mask_LT: Tensor | None, scoring: Scoring
) -> Tensor:
    """[B, H, L, V]; no mask means causal."""
    group = q_BHLK.shape[1] // k_BGTK.shape[1]
    if scoring.plain and mask_LT is None and _suits_blocks(q_BHLK):
        return blocked_attention(q_BHLK, k_BGTK, v_BGTV, scale=scoring.scale)
    if scoring.plain:
        if (
            mask_LT is not None and group > 1 and q_BHLK.is_cuda
        ):  # with a mask only the slow kernel shares key heads
            k_BGTK, v_BGTV = (x.repeat_interleave(group, dim=1) for x in (k_BGTK, v_BGTV))
            group = 1
        return F.scaled_dot_product_attention(
            q_BHLK, k_BGTK, v_BGTV, attn_mask=mask_LT, is_causal=mask_LT is None, scale=scoring.scale,
            enable_gqa=group > 1,
        )  # fmt: skip
    if mask_LT is None:
        mask_LT = causal_mask(0, q_BHLK.shape[2], None, q_BHLK.device)
    k, v = (x.repeat_interleave(group, dim=1) for x in (k_BGTK, v_BGTV))
    return scoring.weights(q_BHLK @ k.transpose(2, 3), mask_LT).to(v.dtype) @ v


def _suits_blocks(q_BHLK: Tensor) -> bool:
    """Shorter ones come in ever new shapes, and each costs the products a preparation."""
    in_bounds = _SHORTEST_BLOCKED <= q_BHLK.shape[2] <= _LONGEST_BLOCKED
    return in_bounds and q_BHLK.dtype == torch.bfloat16 and q_BHLK.device.type == "cpu"


def blocked_attention(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLV: Tensor, *, scale: float) -> Tensor:
    """Causal attention [B, H, L, V], a block of queries at a time against the keys up to its end.

    Products run at the processor's full rate, and what lies beyond a block's last query is never computed. Half
    as fast again to three times as fast as PyTorch's attention for some hundred tokens in bfloat16 on a CPU; its weights
    take memory, so L is bounded.
    """
    return _Blocked.apply(q_BHLK * scale, k_BGLK.contiguous(), v_BGLV.contiguous())  # type: ignore[return-value]


class _Blocked(torch.autograd.Function):
    """R query heads share a key head. Saved: the weights of each block [B, G, R, block, end]."""

    @staticmethod
    def forward(ctx: Any, q_BHLK: Tensor, k_BGLK: Tensor, v_BGLV: Tensor) -> Tensor:
        q_BGRLK, length = q_BHLK.contiguous().unflatten(1, (k_BGLK.shape[1], -1)), q_BHLK.shape[2]
        o_BGRLV = q_BGRLK.new_empty(*q_BGRLK.shape[:4], v_BGLV.shape[3])
        weights = []
        for start in range(0, length, _QUERY_BLOCK):
            end = min(length, start + _QUERY_BLOCK)
            scores = q_BGRLK[:, :, :, start:end] @ k_BGLK[:, :, None, :end].transpose(3, 4)
            later = torch.ones(end - start, end - start, dtype=torch.bool, device=scores.device).triu(1)
            scores[..., start:].masked_fill_(later, -torch.inf)
            weights.append(scores.softmax(-1))
            o_BGRLV[:, :, :, start:end] = weights[-1] @ v_BGLV[:, :, None, :end]
        ctx.save_for_backward(q_BGRLK, k_BGLK, v_BGLV, o_BGRLV, *weights)
        return o_BGRLV.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BGRLK, k_BGLK, v_BGLV, o_BGRLV, *weights = ctx.saved_tensors
        d_o = grads[0].contiguous().unflatten(1, q_BGRLK.shape[1:3])
        d_q, d_k, d_v = torch.empty_like(q_BGRLK), torch.zeros_like(k_BGLK), torch.zeros_like(v_BGLV)
        shift = (d_o.float() * o_BGRLV.float()).sum(-1, keepdim=True).to(d_o.dtype)
        for number, w in enumerate(weights):
            start, end = number * _QUERY_BLOCK, w.shape[-1]
            rows = slice(start, start + w.shape[-2])
            d_w = d_o[:, :, :, rows] @ v_BGLV[:, :, None, :end].transpose(3, 4)
            d_scores = d_w.sub_(shift[:, :, :, rows]).mul_(w)
            d_q[:, :, :, rows] = d_scores @ k_BGLK[:, :, None, :end]
            d_v[:, :, :end] += _over_heads(w.transpose(3, 4) @ d_o[:, :, :, rows])
            d_k[:, :, :end] += _over_heads(d_scores.transpose(3, 4) @ q_BGRLK[:, :, :, rows])
        return d_q.flatten(1, 2), d_k, d_v


def _over_heads(x_BGRLK: Tensor) -> Tensor:
    return x_BGRLK[:, :, 0] if x_BGRLK.shape[2] == 1 else x_BGRLK.sum(2)


def _decode(q_BHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, ragged: Ragged, scoring: Scoring) -> Tensor:
    """One new token a sequence. Neither shapes nor the order of sums depend on the longest sequence of the batch, so
    that a sequence's numbers do not either: caches are read in whole blocks, and values are summed block by block."""
    assert ragged.offsets_B is not None
    longest = int(ragged.offsets_B.max()) + 1
    blocks = -(-longest // CACHE_BLOCK)
    k_BGTK, v_BGTV = (x[:, : blocks * CACHE_BLOCK].transpose(1, 2) for x in (k_BTGK, v_BTGV))
    column_T, last_B1 = torch.arange(blocks * CACHE_BLOCK, device=q_BHK.device), ragged.offsets_B[:, None]
    seen_BT = column_T <= last_B1
    if scoring.window is not None:
        seen_BT = seen_BT & (column_T > last_B1 - scoring.window)
    q_BGHK = q_BHK.unflatten(1, (k_BGTK.shape[1], -1))
    products_BHT = (q_BGHK @ k_BGTK.transpose(2, 3)).flatten(1, 2)
    weights_BHT = scoring.weights(products_BHT[:, :, None], seen_BT[:, None, None])[:, :, 0]
    weights_BGHT = weights_BHT.unflatten(1, q_BGHK.shape[1:3]).to(q_BHK.dtype)
    o_BGHV = q_BGHK.new_zeros(*q_BGHK.shape[:3], v_BGTV.shape[3])
    for start in range(0, blocks * CACHE_BLOCK, CACHE_BLOCK):
        block = slice(start, start + CACHE_BLOCK)
        o_BGHV = o_BGHV + weights_BGHT[..., block] @ v_BGTV[:, :, block]
    return o_BGHV.flatten(1, 2)


def causal_mask(seen: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """Which of `seen + length` tokens each of the last `length` sees."""
    column = torch.arange(seen + length, device=device)
    row = column[seen:, None]
    return column <= row if window is None else (column <= row) & (column > row - window)


def write_cache(cache_BTx: Tensor, new_Nx: Tensor, ragged: Ragged) -> Tensor:
    """Append each sequence's new rows behind its offset, in place where they fit; grows by doubling, in whole blocks."""
    if ragged.pages is not None:
        ragged.pages.write(cache_BTx, new_Nx)
        return cache_BTx
    assert ragged.offsets_B is not None
    needed = int(ragged.ends.max()) if ragged.lengths else 0
    if needed > cache_BTx.shape[1]:
        room = -(-max(needed, 2 * cache_BTx.shape[1]) // CACHE_BLOCK) * CACHE_BLOCK
        grown = cache_BTx.new_zeros(cache_BTx.shape[0], room, *cache_BTx.shape[2:])
        grown[:, : cache_BTx.shape[1]] = cache_BTx
        cache_BTx = grown
    cache_BTx[ragged.sequence_N, ragged.positions_N] = new_Nx.to(cache_BTx.dtype)
    return cache_BTx
