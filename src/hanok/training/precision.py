"""bfloat16 or float32: decided once for a run, by what the processor has and by a measurement, with the reason kept."""

from __future__ import annotations

import time

import torch

_SHAPE = (2048, 512, 1024)
_WORTH_IT = 0.8  # bfloat16 must take at most this share of float32's time


def choose_precision(setting: str, device: str = "cpu") -> tuple[torch.dtype, str]:
    """The dtype of matrix products and the reason for it. Parameters stay float32 in either case."""
    if setting == "float32":
        return torch.float32, "float32: as configured"
    if setting == "bfloat16":
        return torch.bfloat16, "bfloat16: as configured"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bfloat16: the GPU has it"
        return torch.float32, "float32: the GPU has no bfloat16"
    feature = _bfloat16_feature()
    if feature is None:
        return torch.float32, "float32: the processor has neither avx512_bf16 nor amx_bf16"
    ratio = _seconds(torch.bfloat16) / _seconds(torch.float32)
    found = f"the processor has {feature}, a product takes {ratio:.2f} of its float32 time"
    if ratio > _WORTH_IT:
        return torch.float32, f"float32: {found}, not worth it"
    return torch.bfloat16, f"bfloat16: {found}"


def _bfloat16_feature() -> str | None:
    if torch.cpu._is_amx_tile_supported():
        return "amx_bf16"
    return "avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else None


def _seconds(dtype: torch.dtype) -> float:
    """Best of five products of the size of a small model's layer (about 50 ms in all)."""
    rows, inner, columns = _SHAPE
    a, b = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return best
