"""Kimi Delta Attention: one entry for training and prefill, one for decode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hanok.kernels.kda.chunked import chunked_kda
from hanok.kernels.kda.gpu import fla_agrees, fla_kda
from hanok.kernels.kda.native import native_kda, native_kda_step
from hanok.kernels.kda.reference import kda_step as reference_step
from hanok.kernels.kda.reference import recurrent_kda
from hanok.kernels.native import native_available

__all__ = ["chunk_kda", "kda_step", "recurrent_kda"]


def chunk_kda(
    q_NHK: Tensor, k_NHK: Tensor, v_NHV: Tensor, g_NHK: Tensor, beta_NH: Tensor,
    *, cu_seqlens: Tensor, scale: float | None = None,
    initial_state_BHKV: Tensor | None = None, output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The fastest path that this machine has.

    Args:
        q_NHK, k_NHK, v_NHV: queries, keys (both L2-normalised by the caller), values.
        g_NHK: log decay, <= 0. beta_NH: write strength in [0, 1] (or [0, 2]).
        cu_seqlens: int32 [B+1], sequence boundaries; no state crosses one.
        initial_state_BHKV: float32; None = zeros.

    Returns:
        o_NHV in the dtype of `v`, and the float32 state behind each sequence if asked for.
    """
    path = _path(q_NHK.shape[2], v_NHV.shape[2], q_NHK.device)
    return path(
        q_NHK, k_NHK, v_NHV, g_NHK, beta_NH, cu_seqlens=cu_seqlens, scale=scale,
        initial_state_BHKV=initial_state_BHKV, output_final_state=output_final_state,
    )  # fmt: skip


def _path(key: int, value: int, device: torch.device) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if device.type == "cpu" and native_available():
        return native_kda
    return fla_kda if device.type == "cuda" and fla_agrees(key, value, device) else chunked_kda


def kda_step(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor, beta_BH: Tensor, state_BHKV: Tensor,
    *, scale: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token of each sequence, without gradients. Returns (o_BHV, new state), float32."""
    path = native_kda_step if native_available() and q_BHK.device.type == "cpu" else reference_step
    return path(q_BHK, k_BHK, v_BHV, g_BHK, beta_BH, state_BHKV, scale=scale)
