"""Grouped-query attention (arXiv 2305.13245) with rotary or no positions, and what public families add to it: norms on
queries and keys, sliding windows, biases, soft caps, sinks, an output gate.

N tokens, H query heads, G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hanok.models.attention import Scoring, cached_attention, ragged_attention, write_cache
from hanok.models.config import ModelConfig
from hanok.models.linear import Linear, fused_linear, new_norm
from hanok.models.ragged import Ragged
from hanok.models.rope import Rotary
from hanok.models.state import LayerState


class GroupedQueryAttention(nn.Module):
    """Args: kind: "gqa", or "swa" for a sliding window."""

    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        self.config = config
        self.heads, self.kv_heads, self.width = config.num_heads, config.kv_heads, config.dim_of_head
        self.window = config.sliding_window if kind == "swa" else None
        self.rotary = _rotary(config, local=kind == "swa")
        queries = self.heads * self.width
        self.q_proj = Linear(
            config.hidden_size, 2 * queries if config.attention_gate else queries, bias=config.qkv_bias
        )
        self.k_proj = Linear(config.hidden_size, self.kv_heads * self.width, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, self.kv_heads * self.width, bias=config.qkv_bias)
        self.o_proj = Linear(queries, config.hidden_size, bias=config.o_bias)
        whole = config.qk_norm_whole
        self.q_norm = new_norm(config, queries if whole else self.width) if config.qk_norm else None
        self.k_norm = (
            new_norm(config, self.kv_heads * self.width if whole else self.width) if config.qk_norm else None
        )
        self.on_cache: Callable[[Tensor], Tensor] | None = (
            None  # done to keys and values before anyone attends to them
        )
        self.sinks = nn.Parameter(torch.empty(self.heads)) if config.attention_sinks else None

    def forward(self, x_ND: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        n = x_ND.shape[0]
        q, k, v = fused_linear(x_ND, (self.q_proj, self.k_proj, self.v_proj))
        gate_NHK = None
        if self.config.attention_gate:
            q_NHK, gate_NHK = q.view(n, self.heads, 2 * self.width).chunk(2, dim=-1)
            q = q_NHK.reshape(n, self.heads * self.width)
        q_NHK, k_NGK = self._normed(q, k)
        v_NGK = v.view(n, self.kv_heads, self.width)
        if self.rotary is not None:
            q_NHK, k_NGK = self.rotary(q_NHK, ragged), self.rotary(k_NGK, ragged)
        if self.on_cache is not None:
            k_NGK, v_NGK = self.on_cache(k_NGK), self.on_cache(v_NGK)
        scoring = Scoring(
            scale=self.config.attention_scale or self.width**-0.5, window=self.window,
            softcap=self.config.attention_softcap, sinks_H=self.sinks,
        )  # fmt: skip
        if state is None:
            o_NHK = ragged_attention(q_NHK, k_NGK, v_NGK, ragged, scoring)
        else:
            state["k"] = write_cache(state["k"], k_NGK, ragged)
            state["v"] = write_cache(state["v"], v_NGK, ragged)
            keys, values = state["k"].to(q.dtype), state["v"].to(q.dtype)
            o_NHK = cached_attention(q_NHK, keys, values, ragged, scoring)
        if gate_NHK is not None:
            o_NHK = o_NHK * gate_NHK.sigmoid()
        return self.o_proj(o_NHK.reshape(n, self.heads * self.width))

    def new_state(self, batch: int) -> LayerState:
        device = self.o_proj.weight.device
        empty = torch.zeros(batch, 0, self.kv_heads, self.width, device=device)
        return {"k": empty, "v": empty.clone()}

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys by head; norms over one head or over all of them."""
        n, norms = q.shape[0], (self.q_norm, self.k_norm)
        if self.config.qk_norm_whole:
            q, k = (x if norm is None else norm(x) for x, norm in zip((q, k), norms, strict=True))
        q_NHK, k_NGK = q.view(n, self.heads, self.width), k.view(n, self.kv_heads, self.width)
        if self.q_norm is None or self.k_norm is None or self.config.qk_norm_whole:
            return q_NHK, k_NGK
        return self.q_norm(q_NHK), self.k_norm(k_NGK)


def _rotary(config: ModelConfig, *, local: bool) -> Rotary | None:
    if config.rope_theta is None:
        return None
    if local and config.rope_local_theta is not None:
        return Rotary(config.rope_local_theta, config.rope_width, config.max_context)
    return Rotary(config.rope_theta, config.rope_width, config.max_context, config.rope_scaling)
