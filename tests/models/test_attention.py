"""Attention in blocks of queries against PyTorch's, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.models.attention import Scoring, blocked_attention, ragged_attention
from hanok.models.ragged import Ragged

SHAPES = [
    (1, 1, 1, 1, 8, 8),
    (2, 3, 3, 127, 16, 16),
    (1, 4, 2, 128, 24, 10),
    (2, 4, 1, 129, 8, 12),
    (1, 2, 2, 300, 16, 16),
]


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_equal_the_whole(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, heads, groups, length, width, value_width = shape
    inputs = [
        drawn(batch, heads, length, width, seed=0, dtype=dtype), drawn(batch, groups, length, width, seed=1, dtype=dtype),
        drawn(batch, groups, length, value_width, seed=2, dtype=dtype),
    ]  # fmt: skip
    exact = [x.detach().double().requires_grad_(True) for x in inputs]
    gradient = drawn(batch, heads, length, value_width, seed=3, dtype=dtype).detach()
    found = blocked_attention(*inputs, scale=0.3)
    k, v = (x.repeat_interleave(heads // groups, dim=1) for x in exact[1:])
    expected = F.scaled_dot_product_attention(exact[0], k, v, is_causal=True, scale=0.3)
    found.backward(gradient)
    expected.backward(gradient.double())
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    for ours, theirs in zip(inputs, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm().clamp(min=1e-9)
        assert error < (1e-5 if dtype == torch.float32 else 0.02) or theirs.grad.norm() < 1e-6


def test_a_ragged_batch_in_bfloat16_is_that_in_float32() -> None:
    lengths = [5, 300, 64, 1100, 1, 257]  # some within what blocks take
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    q, k, v = (
        drawn(sum(lengths), heads, 16, seed=heads, dtype=torch.float32).detach() for heads in (4, 2, 2)
    )
    scoring = Scoring(scale=0.25)
    exact = ragged_attention(q, k, v, Ragged(bounds), scoring)
    rough = ragged_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), Ragged(bounds), scoring)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
