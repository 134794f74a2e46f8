"""The short convolution: native = shifts and sums, in values, states and gradients."""

from __future__ import annotations

import pytest
import torch

from hanok.kernels.conv import reference_conv, short_conv
from hanok.kernels.native import native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="native kernels are not built")


@pytest.mark.parametrize("bounds", [[0, 15], [0, 1, 2, 5, 5, 70], [0, 256, 300]])
@pytest.mark.parametrize("channels", [5, 64, 150])
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize("stateful", [False, True])
def test_native_equals_reference(bounds: list[int], channels: int, activation, stateful: bool) -> None:
    torch.manual_seed(0)
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    inputs = [torch.randn(bounds[-1], channels), torch.randn(channels, 4)]
    inputs += [torch.randn(len(bounds) - 1, channels, 3)] if stateful else []
    inputs = [x.requires_grad_() for x in inputs]
    initial = inputs[2] if stateful else None
    expected = reference_conv(inputs[0], inputs[1], cu_seqlens, initial, activation)
    got, _ = short_conv(inputs[0], inputs[1], cu_seqlens, initial, activation)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_two_parts_equal_one() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(20, 6), torch.randn(6, 4)
    whole, _ = short_conv(x, weight, torch.tensor([0, 20], dtype=torch.int32))
    for cut in (1, 2, 3, 11):
        first, state = short_conv(
            x[:cut], weight, torch.tensor([0, cut], dtype=torch.int32), output_final_state=True
        )
        second, _ = short_conv(x[cut:], weight, torch.tensor([0, 20 - cut], dtype=torch.int32), state)
        torch.testing.assert_close(torch.cat([first, second]), whole)
