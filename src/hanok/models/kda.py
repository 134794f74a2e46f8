"""The delta-attention layer of Kimi Linear (arXiv 2510.26692, section 4; names as in its checkpoints).

N tokens, B sequences, D model width, H heads, K key width = V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hanok.kernels.gates import log_decay
from hanok.kernels.norms import gated_rms_norm, split_normalised
from hanok.models.config import ModelConfig
from hanok.models.delta import Conv, convolve, delta_rule
from hanok.models.linear import Linear, RMSNorm, fused_linear, joined_linear
from hanok.models.ragged import Ragged
from hanok.models.state import LayerState


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
        qkv = joined_linear(x_ND, (self.q_proj, self.k_proj, self.v_proj))
        gate_low, output_low, beta = fused_linear(x_ND, (self.f_a_proj, self.g_a_proj, self.b_proj))
        taps = torch.cat([conv.weight for conv in (self.q_conv1d, self.k_conv1d, self.v_conv1d)])
        q_NHK, k_NHK, v_NHK = split_normalised(convolve(qkv, taps, ragged, state), heads)
        g_NHK = log_decay(self.f_b_proj(gate_low), self.A_log.exp().flatten(), self.dt_bias, self.lower_bound)
        beta_NH = beta.float().sigmoid()
        o_NHK = delta_rule(q_NHK, k_NHK, v_NHK, g_NHK, beta_NH, ragged, state)
        output_gate = self.g_b_proj(output_low).view(n, heads, width)
        o_NHK = gated_rms_norm(o_NHK, output_gate, self.o_norm.weight, self.o_norm.eps)
        return self.o_proj(o_NHK.reshape(n, heads * width))

    def new_state(self, batch: int) -> LayerState:
        device = self.o_proj.weight.device
        inner, taps = self.heads * self.width, self.q_conv1d.weight.shape[2]
        return {
            "recurrent": torch.zeros(batch, self.heads, self.width, self.width, device=device),
            "conv": torch.zeros(batch, 3 * inner, taps - 1, device=device),
        }
