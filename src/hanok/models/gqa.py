"""Grouped-query attention (arXiv 2305.13245) with rotary or no positions, optional QK-norm and sliding window.

N tokens, H query heads, G key/value heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hanok.models.attention import cached_attention, ragged_attention, rotary, write_cache
from hanok.models.config import ModelConfig
from hanok.models.linear import Linear, RMSNorm, fused_linear
from hanok.models.ragged import Ragged
from hanok.models.state import LayerState


class GroupedQueryAttention(nn.Module):
    def __init__(self, config: ModelConfig, *, window: int | None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = config.num_heads, config.kv_heads, config.dim_of_head
        self.window, self.theta = window, config.rope_theta
        self.q_proj = Linear(config.hidden_size, self.heads * self.width)
        self.k_proj = Linear(config.hidden_size, self.kv_heads * self.width)
        self.v_proj = Linear(config.hidden_size, self.kv_heads * self.width)
        self.o_proj = Linear(self.heads * self.width, config.hidden_size)
        self.q_norm = RMSNorm(self.width, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.width, config.norm_eps) if config.qk_norm else None

    def forward(self, x_ND: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        n = x_ND.shape[0]
        q, k, v = fused_linear(x_ND, (self.q_proj, self.k_proj, self.v_proj))
        q_NHK = q.view(n, self.heads, self.width)
        k_NGK, v_NGK = (x.view(n, self.kv_heads, self.width) for x in (k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q_NHK, k_NGK = self.q_norm(q_NHK), self.k_norm(k_NGK)
        if self.theta is not None:
            q_NHK, k_NGK = (rotary(x, ragged.positions_N, self.theta) for x in (q_NHK, k_NGK))
        scale = self.width**-0.5
        if state is None:
            o_NHK = ragged_attention(q_NHK, k_NGK, v_NGK, ragged, scale=scale, window=self.window)
        else:
            state["k"] = write_cache(state["k"], k_NGK, ragged)
            state["v"] = write_cache(state["v"], v_NGK, ragged)
            o_NHK = cached_attention(
                q_NHK, state["k"].to(q.dtype), state["v"].to(q.dtype), ragged, scale=scale, window=self.window
            )
        return self.o_proj(o_NHK.reshape(n, self.heads * self.width))

    def new_state(self, batch: int) -> LayerState:
        return {name: torch.zeros(batch, 0, self.kv_heads, self.width) for name in ("k", "v")}
