"""What layers with a recurrent matrix share: the short convolution and the delta rule, each with the state that it keeps.

N tokens, B sequences, D channels, H heads, K key width, V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hanok.kernels.conv import conv_step, short_conv
from hanok.kernels.kda import chunk_kda, kda_step
from hanok.kernels.native import runs_native
from hanok.models.ragged import Ragged
from hanok.models.state import LayerState


class Conv(nn.Module):
    """Weight [D, 1, W] as the checkpoints have it."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, taps))


def convolve(x_ND: Tensor, weight_D1W: Tensor, ragged: Ragged, state: LayerState | None) -> Tensor:
    """Causal convolution of each channel, then SiLU; the last inputs stay in `state["conv"]`."""
    if state is not None and ragged.one_each and not runs_native(x_ND):
        y_ND, state["conv"] = conv_step(x_ND, weight_D1W.squeeze(1).float(), state["conv"])
        return y_ND
    y_ND, final = short_conv(
        x_ND, weight_D1W.squeeze(1).float(), ragged.cu_seqlens, None if state is None else state["conv"],
        activation="silu", output_final_state=state is not None,
    )  # fmt: skip
    if state is not None and final is not None:
        state["conv"] = final
    return y_ND


def delta_rule(
    q_NHK: Tensor, k_NHK: Tensor, v_NHV: Tensor, g_NHK: Tensor, beta_NH: Tensor,
    ragged: Ragged, state: LayerState | None,
) -> Tensor:  # fmt: skip
    """In chunks, or one step where every sequence brings one token; the matrices stay in `state["recurrent"]`."""
    if state is None:
        return chunk_kda(q_NHK, k_NHK, v_NHV, g_NHK, beta_NH, cu_seqlens=ragged.cu_seqlens)[0]
    if ragged.one_each:
        o_NHV, state["recurrent"] = kda_step(q_NHK, k_NHK, v_NHV, g_NHK, beta_NH, state["recurrent"])
        return o_NHV
    o_NHV, final = chunk_kda(
        q_NHK, k_NHK, v_NHV, g_NHK, beta_NH, cu_seqlens=ragged.cu_seqlens,
        initial_state_BHKV=state["recurrent"], output_final_state=True,
    )  # fmt: skip
    assert final is not None
    state["recurrent"] = final
    return o_NHV
