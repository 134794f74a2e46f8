"""Scaled dot-product attention over a ragged batch, and its cache.

N tokens, B sequences, H query heads, G key/value heads, K key width, V value width, T cached tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.models.ragged import Ragged

CACHE_BLOCK = 64  # tokens


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
    """One new token a sequence. Neither shapes nor the order of sums depend on the longest sequence of the batch, so
    that a sequence's numbers do not either: caches are read in whole blocks, and values are summed block by block."""
    assert ragged.offsets_B is not None
    longest = int(ragged.offsets_B.max()) + 1
    blocks = -(-longest // CACHE_BLOCK)
    k_BGTK, v_BGTV = (x[:, : blocks * CACHE_BLOCK].transpose(1, 2) for x in (k_BTGK, v_BTGV))
    column_T, last_B1 = torch.arange(blocks * CACHE_BLOCK), ragged.offsets_B[:, None]
    seen_BT = column_T <= last_B1 if window is None else (column_T <= last_B1) & (column_T > last_B1 - window)
    q_BGHK = q_BHK.unflatten(1, (k_BGTK.shape[1], -1))
    scores_BGHT = ((q_BGHK @ k_BGTK.transpose(2, 3)).float() * scale).masked_fill(
        ~seen_BT[:, None, None], -torch.inf
    )
    weights_BGHT = scores_BGHT.softmax(-1).to(q_BHK.dtype)
    o_BGHV = q_BGHK.new_zeros(*q_BGHK.shape[:3], v_BGTV.shape[3])
    for start in range(0, blocks * CACHE_BLOCK, CACHE_BLOCK):
        block = slice(start, start + CACHE_BLOCK)
        o_BGHV = o_BGHV + weights_BGHT[..., block] @ v_BGTV[:, :, block]
    return o_BGHV.flatten(1, 2)


def _window_mask(length: int, window: int) -> Tensor:
    row, column = torch.arange(length)[:, None], torch.arange(length)
    return (column <= row) & (column > row - window)


def write_cache(cache_BTx: Tensor, new_Nx: Tensor, ragged: Ragged) -> Tensor:
    """Append each sequence's new rows behind its offset, in place where they fit; grows by doubling, in whole blocks."""
    assert ragged.offsets_B is not None
    needed = int((ragged.offsets_B + torch.tensor(ragged.lengths)).max()) if ragged.lengths else 0
    if needed > cache_BTx.shape[1]:
        room = -(-max(needed, 2 * cache_BTx.shape[1]) // CACHE_BLOCK) * CACHE_BLOCK
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
