"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), its shared key part rotated as there, or not as in Kimi Linear.

The cache holds one latent (L) and one shared key part (R) a token, for all heads together. Prefill and training use the expanded
form; decode absorbs the up-projections into the query and the output, so that it reads the latents alone.

N tokens, B sequences, T cached, H heads, K key width without the shared part, R shared key width, V value width, L latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hanok.models.attention import Scoring, cached_attention, ragged_attention, write_cache
from hanok.models.config import ModelConfig
from hanok.models.linear import Linear, RMSNorm, fused_linear
from hanok.models.ragged import Ragged
from hanok.models.rope import Rotary, yarn_mscale
from hanok.models.state import LayerState

_LATENT_EPS = 1e-6  # fixed in the published code, whatever the configuration says


class LatentAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.heads, self.latent = config.num_heads, config.kv_lora_rank
        self.nope, self.shared, self.value = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        )
        self.scoring = Scoring(scale=_scale(config))
        self.rotary = _rotary(config)
        queries = self.heads * (self.nope + self.shared)
        if config.q_lora_rank is None:
            self.q_proj = Linear(config.hidden_size, queries)
        else:
            self.q_a_proj = Linear(config.hidden_size, config.q_lora_rank, bias=config.qkv_bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, _LATENT_EPS)
            self.q_b_proj = Linear(config.q_lora_rank, queries)
        self.kv_a_proj_with_mqa = Linear(config.hidden_size, self.latent + self.shared, bias=config.qkv_bias)
        self.kv_a_layernorm = RMSNorm(self.latent, _LATENT_EPS)
        self.kv_b_proj = Linear(self.latent, self.heads * (self.nope + self.value))
        self.o_proj = Linear(self.heads * self.value, config.hidden_size, bias=config.o_bias)

    def forward(self, x_ND: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        n = x_ND.shape[0]
        q, compressed = self._project(x_ND)
        q_NHK = q.view(n, self.heads, self.nope + self.shared)
        latent_NL, shared_NR = compressed.split([self.latent, self.shared], dim=-1)
        if self.rotary is not None:
            q_nope, q_shared = q_NHK.split([self.nope, self.shared], dim=-1)
            q_NHK = torch.cat([q_nope, self.rotary(q_shared, ragged)], dim=-1)
            shared_NR = self.rotary(shared_NR[:, None], ragged)[:, 0]
        latent_NL = self.kv_a_layernorm(latent_NL)
        if state is None:
            k, v = self._expand(latent_NL, shared_NR)
            o_NHV = ragged_attention(q_NHK, k, v, ragged, self.scoring)
        else:
            rows = torch.cat([latent_NL, shared_NR], dim=-1)
            state["latent"] = write_cache(state["latent"], rows, ragged)
            o_NHV = self._absorbed(q_NHK, state["latent"].to(q.dtype), ragged)
        return self.o_proj(o_NHV.reshape(n, self.heads * self.value))

    def new_state(self, batch: int) -> LayerState:
        device = self.o_proj.weight.device
        return {"latent": torch.zeros(batch, 0, self.latent + self.shared, device=device)}

    def _project(self, x_ND: Tensor) -> tuple[Tensor, ...]:
        """Queries of all heads, and [latent | shared key]."""
        if self.config.q_lora_rank is None:
            return fused_linear(x_ND, (self.q_proj, self.kv_a_proj_with_mqa))
        low, compressed = fused_linear(x_ND, (self.q_a_proj, self.kv_a_proj_with_mqa))
        return self.q_b_proj(self.q_a_layernorm(low)), compressed

    def _expand(self, latent_NL: Tensor, shared_NR: Tensor) -> tuple[Tensor, Tensor]:
        n = latent_NL.shape[0]
        k_NHK, v_NHV = (
            self.kv_b_proj(latent_NL).view(n, self.heads, -1).split([self.nope, self.value], dim=-1)
        )
        shared = shared_NR[:, None].expand(-1, self.heads, -1)
        return torch.cat([k_NHK, shared], dim=-1), v_NHV

    def _absorbed(self, q_NHK: Tensor, cache_BTC: Tensor, ragged: Ragged) -> Tensor:
        """Scores against [latent | shared] as one key for all heads; the context of latents is mapped to values last."""
        q_nope, q_shared = q_NHK.split([self.nope, self.shared], dim=-1)
        q_NHC = torch.cat([self._times_up("nhk,hkl->nhl", q_nope, 0), q_shared], dim=-1)
        keys, values = cache_BTC[..., None, :], cache_BTC[..., None, : self.latent]
        context_NHL = cached_attention(q_NHC, keys, values, ragged, self.scoring)
        return self._times_up("nhl,hvl->nhv", context_NHL, 1)

    def _times_up(self, equation: str, x: Tensor, part: int) -> Tensor:
        """x times the up-projection of each head to keys (part 0) or values (part 1), with each row's adapter."""

        def of_heads(weight: Tensor) -> Tensor:
            up = weight.to(x.dtype).view(self.heads, self.nope + self.value, self.latent)
            return up.split([self.nope, self.value], dim=1)[part]

        y = torch.einsum(equation, x, of_heads(self.kv_b_proj.effective_weight()))
        for low, rows_M, real in self.kv_b_proj.on_rows:
            rows = rows_M[:real]
            y = y.index_add(0, rows, torch.einsum(equation, x[rows], of_heads(low.delta())))
        return y


def _rotary(config: ModelConfig) -> Rotary | None:
    if not config.mla_rope or config.rope_theta is None:
        return None
    return Rotary(
        config.rope_theta, config.qk_rope_head_dim, config.max_context, config.rope_scaling, interleaved=True
    )


def _scale(config: ModelConfig) -> float:
    """1 / sqrt(width of a key), times the square of YaRN's factor where DeepSeek applies it to all channels."""
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    scaling = config.rope_scaling
    if config.mla_rope and scaling is not None and scaling.mscale_all_dim:
        scale *= yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
    return scale
