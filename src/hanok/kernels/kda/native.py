"""The native chunk form behind autograd; the same equations in `native_src/kda.cpp`.

N tokens, B sequences, H heads, K key width, V value width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanok.kernels.native import address, native

SPACING = 64  # tokens between two states kept for the backward pass; more on long sequences, to bound memory
LONG = 16_384


def native_kda(
    q_NHK: Tensor, k_NHK: Tensor, v_NHV: Tensor, g_NHK: Tensor, beta_NH: Tensor,
    *, cu_seqlens: Tensor, scale: float | None = None,
    initial_state_BHKV: Tensor | None = None, output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """See `hanok.kernels.kda.chunk_kda`."""
    scale = q_NHK.shape[-1] ** -0.5 if scale is None else scale
    inputs = tuple(x.float().contiguous() for x in (q_NHK, k_NHK, v_NHV, g_NHK, beta_NH))
    initial = None if initial_state_BHKV is None else initial_state_BHKV.float().contiguous()
    bounds = cu_seqlens.to(torch.int32).contiguous()
    o_NHV, final = _Kda.apply(*inputs, initial, bounds, scale, output_final_state)  # type: ignore[misc]
    return o_NHV.to(v_NHV.dtype), final if output_final_state else None


def native_kda_step(
    q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, g_BHK: Tensor, beta_BH: Tensor, state_BHKV: Tensor,
    *, scale: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `hanok.kernels.kda.kda_step`; no gradients."""
    module = native()
    scale = q_BHK.shape[-1] ** -0.5 if scale is None else scale
    inputs = [x.float().contiguous() for x in (q_BHK, k_BHK, v_BHV, g_BHK, beta_BH)]
    before = state_BHKV.float().contiguous()
    after, o_BHV = torch.empty_like(before), torch.empty_like(inputs[2])
    batch, heads, key = inputs[0].shape
    shape = [batch, heads, key, inputs[2].shape[2]]
    module.kda_step([*map(address, inputs), 0], shape, scale, address(before), address(after), address(o_BHV))
    return o_BHV, after


class _Kda(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, initial: Tensor | None,
        bounds: Tensor, scale: float, final: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        module = native()
        n, heads, key = q.shape
        value, batch = v.shape[2], bounds.shape[0] - 1
        shape = [batch, heads, key, value]
        training = any(ctx.needs_input_grad)
        spacing = SPACING if n <= LONG else 4 * SPACING
        lengths = (bounds[1:] - bounds[:-1]).long()
        saved = torch.zeros(batch + 1, dtype=torch.int64)
        saved[1:] = ((lengths + spacing - 1) // spacing).cumsum(0)
        states = q.new_empty(int(saved[-1]) if training else 0, heads, key, value)
        o_NHV = torch.empty_like(v)
        final_BHKV = q.new_empty(batch if final else 0, heads, key, value)
        module.kda_forward(
            [*map(address, (q, k, v, g, beta)), address(initial)], address(bounds), shape, scale, spacing,
            address(saved), address(states) if training else 0, address(o_NHV), address(final_BHKV) if final else 0,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, g, beta, initial, bounds, saved, states)
        ctx.settings = (shape, scale, spacing, final)
        return o_NHV, final_BHKV

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        module = native()
        q, k, v, g, beta, initial, bounds, saved, states = ctx.saved_tensors
        shape, scale, spacing, final = ctx.settings
        d_o, d_final = grads[0].contiguous(), grads[1].contiguous() if final else None
        results = [torch.empty_like(x) for x in (q, k, v, g, beta)]
        d_initial = None if initial is None else torch.empty_like(initial)
        module.kda_backward(
            [*map(address, (q, k, v, g, beta)), address(initial)], address(bounds), shape, scale, spacing,
            address(saved), address(states), [address(d_o), address(d_final), *map(address, results), address(d_initial)],
        )  # fmt: skip
        return (*results, d_initial, None, None, None)
