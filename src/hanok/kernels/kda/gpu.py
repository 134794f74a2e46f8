"""The chunk form on a GPU by `fla-core`'s Triton kernels, where they are installed and give the reference's numbers here.

Whether they do is measured once for each head size: on a small ragged batch, values, state and gradients against
`chunked.py`. Otherwise that file runs, and one log line says why.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

import torch
from torch import Tensor

from hanok.kernels.kda.chunked import chunked_kda

log = logging.getLogger("hanok")
_LENGTHS, _HEADS = (70, 1, 130), 2
_CLOSE = 2e-2  # of the largest number; their products round to tf32


def fla_kda(
    q_NHK: Tensor, k_NHK: Tensor, v_NHV: Tensor, g_NHK: Tensor, beta_NH: Tensor,
    *, cu_seqlens: Tensor, scale: float | None = None,
    initial_state_BHKV: Tensor | None = None, output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """See `hanok.kernels.kda.chunk_kda`."""
    inputs = [x.float().contiguous()[None] for x in (q_NHK, k_NHK, v_NHV, g_NHK, beta_NH)]
    o_1NHV, final = _module().chunk_kda(
        *inputs, scale=q_NHK.shape[-1] ** -0.5 if scale is None else scale,
        initial_state=None if initial_state_BHKV is None else initial_state_BHKV.float().contiguous(),
        output_final_state=output_final_state, cu_seqlens=cu_seqlens.long(),
    )  # fmt: skip
    return o_1NHV[0].to(v_NHV.dtype), final


@functools.cache
def fla_agrees(key: int, value: int, device: torch.device) -> bool:
    """Whether `fla_kda` may stand for `chunked_kda` at this head size."""
    try:
        error = _largest_error(key, value, device)
    except ImportError as why:
        log.info("delta attention runs in PyTorch on the GPU: fla-core is not installed (%s)", why)
        return False
    except Exception as why:  # what a compiler of kernels raises is not known beforehand
        log.warning("delta attention runs in PyTorch on the GPU: fla-core fails here (%s)", why)
        return False
    if not error < _CLOSE:
        log.warning(
            "delta attention runs in PyTorch on the GPU: fla-core is off by %.2g of the largest number", error
        )
        return False
    log.info("delta attention runs on fla-core's kernels, which agree within %.1g", error)
    return True


def _module() -> Any:
    return importlib.import_module("fla.ops.kda")


def _largest_error(key: int, value: int, device: torch.device) -> float:
    _module()
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    n, batch = sum(_LENGTHS), len(_LENGTHS)
    q, k = (torch.nn.functional.normalize(drawn(n, _HEADS, key), dim=-1) for _ in range(2))
    inputs = [
        q, k, drawn(n, _HEADS, value), -drawn(n, _HEADS, key).square(), drawn(n, _HEADS).sigmoid(),
    ]  # fmt: skip
    state, d_o = drawn(batch, _HEADS, key, value), drawn(n, _HEADS, value)
    bounds = torch.tensor([0, *_LENGTHS], dtype=torch.int32).cumsum(0).to(device, torch.int32)

    def results(path: Any) -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_(True) for x in (*inputs, state)]
        o, final = path(*leaves[:5], cu_seqlens=bounds, initial_state_BHKV=leaves[5], output_final_state=True)
        return [o, final, *torch.autograd.grad((o * d_o).sum() + final.square().sum(), leaves)]

    with torch.enable_grad():
        pairs = list(zip(results(fla_kda), results(chunked_kda), strict=True))
    errors = [(a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-6) for a, b in pairs]
    return float(torch.stack(errors).max())  # NaN, if there is one
