"""The gated delta rule of Qwen3-Next (arXiv 2412.06464; names as in its checkpoints, projections split by what they make).

It is delta attention whose decay is one number a head: the same kernels run it, with that number in every key channel.

N tokens, B sequences, D model width, G key heads, H value heads (a multiple), K key width, V value width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanok.models.config import ModelConfig
from hanok.models.delta import Conv, convolve, delta_rule
from hanok.models.linear import Linear, RMSNorm, joined_linear
from hanok.models.ragged import Ragged
from hanok.models.state import LayerState

_UNIT_EPS = 1e-6


class GatedDeltaNet(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.key_heads, self.heads = config.linear_key_heads, config.linear_value_heads
        self.key_width, self.width = config.linear_key_dim, config.linear_value_dim
        keys, values = self.key_heads * self.key_width, self.heads * self.width
        self.parts = [keys, keys, values]
        self.q_proj = Linear(config.hidden_size, keys)
        self.k_proj = Linear(config.hidden_size, keys)
        self.v_proj = Linear(config.hidden_size, values)
        self.z_proj = Linear(config.hidden_size, values)
        self.b_proj = Linear(config.hidden_size, self.heads)
        self.a_proj = Linear(config.hidden_size, self.heads)
        self.conv1d = Conv(sum(self.parts), config.conv_size)
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.norm = RMSNorm(self.width, config.norm_eps)
        self.out_proj = Linear(values, config.hidden_size)

    def forward(self, x_ND: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
        n = x_ND.shape[0]
        qkv = joined_linear(x_ND, (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = convolve(qkv, self.conv1d.weight, ragged, state).split(self.parts, dim=-1)
        q_NHK, k_NHK = (self._unit(x.view(n, self.key_heads, self.key_width)) for x in (q, k))
        v_NHV = v.reshape(n, self.heads, self.width)
        decay_NH = -self.A_log.float().exp() * F.softplus(self.a_proj(x_ND).float() + self.dt_bias.float())
        g_NHK = decay_NH[:, :, None].expand(-1, -1, self.key_width).contiguous()
        beta_NH = self.b_proj(x_ND).float().sigmoid()
        o_NHV = delta_rule(q_NHK, k_NHK, v_NHV, g_NHK, beta_NH, ragged, state)
        gate_NHV = self.z_proj(x_ND).view(n, self.heads, self.width)
        o_NHV = self.norm(o_NHV.to(x_ND.dtype)) * F.silu(gate_NHV.float())
        return self.out_proj(o_NHV.to(x_ND.dtype).reshape(n, self.heads * self.width))

    def new_state(self, batch: int) -> LayerState:
        device = self.out_proj.weight.device
        taps = self.conv1d.weight.shape[2]
        return {
            "recurrent": torch.zeros(batch, self.heads, self.key_width, self.width, device=device),
            "conv": torch.zeros(batch, sum(self.parts), taps - 1, device=device),
        }

    def _unit(self, x_NGK: Tensor) -> Tensor:
        """Heads of length one, each repeated for the value heads that it serves."""
        unit = x_NGK * torch.rsqrt(x_NGK.square().sum(-1, keepdim=True) + _UNIT_EPS)
        return unit.repeat_interleave(self.heads // self.key_heads, dim=1)
