"""The delta-attention layer of Kimi Linear (arXiv 2510.26692, section 4; names as in its checkpoints).

N tokens, B sequences, D model width, H heads, K key width = V value width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.kernels.conv import short_conv
from hanok.kernels.kda import chunk_kda, kda_step
from hanok.models.config import ModelConfig
from hanok.models.linear import Linear, RMSNorm, fused_linear
from hanok.models.ragged import Ragged
from hanok.models.state import LayerState


class Conv(nn.Module):
    """Weight [D, 1, W] as the checkpoints have it."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, taps))


class DeltaAttention(nn.Module):
    """q, k, v through a short convolution, a decay for each key channel, and a gated, normalised output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, width = config.num_heads, config.dim_of_head
        inner = heads * width
        self.heads, self.width = heads, width
        self.lower_bound = config.gate_lower_bound if config.kda_gate == "lower_bound" else None
        self.q_proj = Linear(config.hidden_size, inner)
        self.k_proj = Linear(config.hidden_size, inner)
        self.v_proj = Linear(config.hidden_size, inner)
        self.q_conv1d = Conv(inner, config.conv_size)
        self.k_conv1d = Conv(inner, config.conv_size)
        self.v_conv1d = Conv(inner, config.conv_size)
        self.f_a_proj = Linear(config.hidden_size, width)
        self.f_b_proj = Linear(width, inner)
        self.b_proj = Linear(config.hidden_size, heads)
        self.g_a_proj = Linear(config.hidden_size, width)
        self.g_b_proj = Linear(width, inner)
        self.A_log = nn.Parameter(torch.empty(1, 1, heads, 1))
        self.dt_bias = nn.Parameter(torch.empty(inner))
        self.o_norm = RMSNorm(width, config.norm_eps)
        self.o_proj = Linear(inner, config.hidden_size)

    def forward(self, x_ND: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        n, heads, width = x_ND.shape[0], self.heads, self.width
        maps = (self.q_proj, self.k_proj, self.v_proj, self.f_a_proj, self.g_a_proj, self.b_proj)
        q, k, v, gate_low, output_low, beta = fused_linear(x_ND, maps)
        qkv = self._convolve(torch.cat([q, k, v], dim=-1), ragged, state)
        q_NHK, k_NHK, v_NHK = (x.view(n, heads, width) for x in qkv.chunk(3, dim=-1))
        q_NHK, k_NHK = _l2norm(q_NHK), _l2norm(k_NHK)
        g_NHK = self._decay(self.f_b_proj(gate_low).view(n, heads, width))
        beta_NH = beta.float().sigmoid()
        if state is None:
            o_NHK, _ = chunk_kda(q_NHK, k_NHK, v_NHK, g_NHK, beta_NH, cu_seqlens=ragged.cu_seqlens)
        elif all(length == 1 for length in ragged.lengths):
            o_NHK, state["recurrent"] = kda_step(q_NHK, k_NHK, v_NHK, g_NHK, beta_NH, state["recurrent"])
        else:
            o_NHK, final = chunk_kda(
                q_NHK, k_NHK, v_NHK, g_NHK, beta_NH, cu_seqlens=ragged.cu_seqlens,
                initial_state_BHKV=state["recurrent"], output_final_state=True,
            )  # fmt: skip
            assert final is not None
            state["recurrent"] = final
        output_gate = self.g_b_proj(output_low).view(n, heads, width)
        o_NHK = self.o_norm(o_NHK.float()) * output_gate.float().sigmoid()
        return self.o_proj(o_NHK.to(x_ND.dtype).reshape(n, heads * width))

    def new_state(self, batch: int) -> LayerState:
        inner, taps = self.heads * self.width, self.q_conv1d.weight.shape[2]
        return {
            "recurrent": torch.zeros(batch, self.heads, self.width, self.width),
            "conv": torch.zeros(batch, 3 * inner, taps - 1),
        }

    def _convolve(self, qkv: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        weight = (
            torch.cat([self.q_conv1d.weight, self.k_conv1d.weight, self.v_conv1d.weight]).squeeze(1).float()
        )
        initial = None if state is None else state["conv"]
        y, final = short_conv(
            qkv.float(),
            weight,
            ragged.cu_seqlens,
            initial,
            activation="silu",
            output_final_state=state is not None,
        )
        if state is not None and final is not None:
            state["conv"] = final
        return y

    def _decay(self, raw_NHK: Tensor) -> Tensor:
        """Log decay <= 0 of each key channel, float32 (section 4 of the paper; the bounded form of its kernels)."""
        rate_H1 = self.A_log.float().exp().view(self.heads, 1)
        raw_NHK = raw_NHK.float() + self.dt_bias.float().view(self.heads, self.width)
        if self.lower_bound is not None:
            return self.lower_bound * (rate_H1 * raw_NHK).sigmoid()
        return -rate_H1 * F.softplus(raw_NHK)


def _l2norm(x_NHK: Tensor) -> Tensor:
    """The epsilon is added to the sum, inside the root."""
    x_NHK = x_NHK.float()
    return x_NHK * torch.rsqrt(x_NHK.square().sum(-1, keepdim=True) + 1e-6)
