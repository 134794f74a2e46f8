"""Scaled dot-product attention over a ragged batch, and its cache.

N tokens, B sequences, H query heads, G key/value heads, K key width, V value width, T cached tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.models.ragged import Ragged


def ragged_attention(
    q_NHK: Tensor, k_NGK: Tensor, v_NGV: Tensor, ragged: Ragged, *, scale: float, window: int | None = None
) -> Tensor:
    """Causal attention within each sequence; `window` limits it to that many tokens, the current one included."""
    output = q_NHK.new_zeros(q_NHK.shape[0], q_NHK.shape[1], v_NGV.shape[2])
    grouped = q_NHK.shape[1] != k_NGK.shape[1]
    for bucket in ragged.buckets:
        q, k, v = (x[bucket.slots_nL].transpose(1, 2) for x in (q_NHK, k_NGK, v_NGV))
        mask = _window_mask(q.shape[2], window) if window is not None and q.shape[2] > window else None
        o = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
        real = o.transpose(1, 2).reshape(-1, *output.shape[1:])[bucket.cells_T]
        output = output.index_copy(0, bucket.tokens_T, real)
    return output


def cached_attention(
    q_NHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, ragged: Ragged, *, scale: float, window: int | None = None
) -> Tensor:
    """Attention of new tokens to everything cached (their own keys and values already written)."""
    assert ragged.offsets_B is not None
    outputs = []
    one_each = all(length == 1 for length in ragged.lengths)
    if one_each:
        return _decode(q_NHK, k_BTGK, v_BTGV, ragged, scale=scale, window=window)
    for b, length in enumerate(ragged.lengths):
        start, seen = ragged.bounds[b], int(ragged.offsets_B[b])
        q = q_NHK[start : start + length].transpose(0, 1)[None]
        k, v = (x[b, : seen + length].transpose(0, 1)[None] for x in (k_BTGK, v_BTGV))
        row, column = torch.arange(seen, seen + length)[:, None], torch.arange(seen + length)
        mask = column <= row if window is None else (column <= row) & (column > row - window)
        o = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(o[0].transpose(0, 1))
    return torch.cat(outputs)


def _decode(
    q_BHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, ragged: Ragged, *, scale: float, window: int | None
) -> Tensor:
    assert ragged.offsets_B is not None
    longest = int(ragged.offsets_B.max()) + 1
    k, v = k_BTGK[:, :longest].transpose(1, 2), v_BTGV[:, :longest].transpose(1, 2)
    column, last = torch.arange(longest), ragged.offsets_B[:, None]
    mask = column <= last if window is None else (column <= last) & (column > last - window)
    grouped = q_BHK.shape[1] != k.shape[1]
    o = F.scaled_dot_product_attention(
        q_BHK[:, :, None], k, v, attn_mask=mask[:, None, None], scale=scale, enable_gqa=grouped
    )
    return o.squeeze(2)


def _window_mask(length: int, window: int) -> Tensor:
    row, column = torch.arange(length)[:, None], torch.arange(length)
    return (column <= row) & (column > row - window)


def write_cache(cache_BTx: Tensor, new_Nx: Tensor, ragged: Ragged) -> Tensor:
    """Append each sequence's new rows behind its offset, in place where they fit; grows by doubling."""
    assert ragged.offsets_B is not None
    needed = int((ragged.offsets_B + torch.tensor(ragged.lengths)).max()) if ragged.lengths else 0
    if needed > cache_BTx.shape[1]:
        room = max(needed, 2 * cache_BTx.shape[1], 64)
        grown = cache_BTx.new_zeros(cache_BTx.shape[0], room, *cache_BTx.shape[2:])
        grown[:, : cache_BTx.shape[1]] = cache_BTx
        cache_BTx = grown
    cache_BTx[ragged.sequence_N, ragged.positions_N] = new_Nx.to(cache_BTx.dtype)
    return cache_BTx


def rotary(x_NHK: Tensor, positions_N: Tensor, theta: float) -> Tensor:
    """Rotary position embedding, half-split layout (Llama); angles in float32."""
    half = x_NHK.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = positions_N[:, None].float() * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x_NHK[..., :half].float(), x_NHK[..., half:].float()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x_NHK.dtype)
