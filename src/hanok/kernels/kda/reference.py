"""Kimi Delta Attention as its recurrence: this *is* the specification (Kimi Linear, arXiv 2510.26692, Eq. 1).

    S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_{t-1} + beta_t k_t v_t^T        o_t = scale S_t^T q_t

N tokens of the ragged batch, B sequences, H heads, K key width, V value width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def kda_step(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor, beta_BH: Tensor, state_BHKV: Tensor,
    *, scale: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token of each sequence: decay, predict, correct, read. Returns (o_BHV, new state), float32."""
    factor = q_BHK.shape[-1] ** -0.5 if scale is None else scale
    q_BHK, k_BHK, v_BHV, beta_BH = q_BHK.float(), k_BHK.float(), v_BHV.float(), beta_BH.float()
    state_BHKV = state_BHKV * g_BHK.float().exp()[..., None]
    error_BHV = v_BHV - torch.einsum("bhk,bhkv->bhv", k_BHK, state_BHKV)
    state_BHKV = state_BHKV + k_BHK[..., None] * (beta_BH[..., None] * error_BHV)[..., None, :]
    return torch.einsum("bhk,bhkv->bhv", q_BHK * factor, state_BHKV), state_BHKV


def recurrent_kda(
    q_NHK: Tensor, k_NHK: Tensor, v_NHV: Tensor, g_NHK: Tensor, beta_NH: Tensor,
    *, cu_seqlens: Tensor, scale: float | None = None,
    initial_state_BHKV: Tensor | None = None, output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The recurrence token by token; see `hanok.kernels.kda.chunk_kda` for shapes."""
    bounds = cu_seqlens.tolist()
    heads, key, value = q_NHK.shape[1], q_NHK.shape[2], v_NHV.shape[2]
    outputs, finals = [], []
    for b, (start, end) in enumerate(pairwise(bounds)):
        state = q_NHK.new_zeros(1, heads, key, value, dtype=torch.float32)
        if initial_state_BHKV is not None:
            state = initial_state_BHKV[b : b + 1].float()
        for t in range(start, end):
            q, k, v, g, beta = (x[t : t + 1] for x in (q_NHK, k_NHK, v_NHV, g_NHK, beta_NH))
            output, state = kda_step(q, k, v, g, beta, state, scale=scale)
            outputs.append(output)
        finals.append(state)
    o_NHV = torch.cat(outputs) if outputs else v_NHV.float()
    return o_NHV.to(v_NHV.dtype), torch.cat(finals) if output_final_state else None
