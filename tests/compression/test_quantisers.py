"""Quantisers against their definitions in numpy, and the orders that must hold between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hanok.compression.awq import awq_clip, awq_scales
from hanok.compression.gptq import gptq
from hanok.compression.grid import Grid, encode, find_grid
from hanok.compression.hessian import hessian_of, output_error
from hanok.compression.hqq import hqq
from hanok.compression.rtn import rtn
from hanok.compression.smooth import smooth_scales
from hanok.errors import ConfigError, InputError
from hanok.kernels.formats import pack_words, quantise, unpack_words

N, K, GROUP = 24, 128, 32


def weight(seed: int = 0, inputs: int = K) -> Tensor:
    return torch.randn(N, inputs, generator=torch.Generator().manual_seed(seed)) / inputs**0.5


def correlated(seed: int = 1, rows: int = 400) -> Tensor:
    """Inputs of few directions and very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(24, K, generator=generator)
    x_MK = torch.randn(rows, 24, generator=generator) @ directions
    return (x_MK + 0.3 * torch.randn(rows, K, generator=generator)) * torch.logspace(-1, 1, K)


def lost(weight_NK: Tensor, values_NK: Tensor, x_MK: Tensor) -> float:
    return float(((weight_NK - values_NK) @ x_MK.T).square().sum() / len(x_MK))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_stay_in_range_and_close(bits: int, symmetric: bool) -> None:
    w_NK = weight(inputs=96)
    codes = rtn(w_NK, bits, 48, symmetric=symmetric)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert codes.q_NK.min() >= low
    assert codes.q_NK.max() <= high
    assert torch.equal(codes.grid.scales_NG, codes.grid.scales_NG.half().float())
    steps = (w_NK - codes.values()).abs().unflatten(1, (2, -1)) / codes.grid.scales_NG.abs()[..., None]
    inside = steps[codes.q_NK.unflatten(1, (2, -1)).ne(low) & codes.q_NK.unflatten(1, (2, -1)).ne(high)]
    assert inside.max() < 0.5 + 0.03 * 2 ** (bits - 4), "a scale in half precision moves far numbers a little"


def test_asymmetric_rounding_is_the_formula() -> None:
    w = weight().numpy()
    codes = rtn(weight(), 4, GROUP, symmetric=False)
    for g in range(K // GROUP):
        part = w[:, g * GROUP : (g + 1) * GROUP]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scale = ((high - low) / np.float32(15)).astype(np.float16).astype(np.float32)
        zero = np.round(-low / scale)
        expected = np.clip(np.round(part / scale[:, None]) + zero[:, None], 0, 15)
        found = codes.q_NK[:, g * GROUP : (g + 1) * GROUP].numpy()
        assert (found != expected).sum() <= 1, "one tie at most"
        np.testing.assert_array_equal(codes.grid.zeros_NG[:, g].numpy(), zero)


@pytest.mark.parametrize("bits", [4, 8])
def test_nearest_is_the_grid_of_the_kernels(bits: int) -> None:
    ours, theirs = rtn(weight(), bits, GROUP), quantise(weight(), bits)
    assert torch.equal(ours.q_NK.to(torch.int8), theirs.q_NK)
    assert torch.equal(ours.values(), theirs.dequantised())
    assert torch.equal(unpack_words(pack_words(theirs.q_NK, bits), bits), ours.q_NK.to(torch.int8))


def test_the_search_for_scales_is_that_of_the_kernels_at_other_widths_too() -> None:
    """Four bits in groups of 64 by the definition: the best of 17 scales by squared error."""
    w = weight().numpy().reshape(N, 2, 64)
    found = find_grid(weight(), 4, 64).scales_NG.numpy()
    largest = np.take_along_axis(w, np.abs(w).argmax(-1)[..., None], -1)[..., 0]
    best, least = np.zeros_like(largest), np.full(largest.shape, np.inf)
    for step in range(17):
        scale = (largest / (-6.4 - 0.2 * step)).astype(np.float16).astype(np.float32)
        q = np.clip(np.round(w / scale[..., None]), -8, 7)
        error = ((w - q * scale[..., None]) ** 2).sum(-1)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    assert (found != best).mean() < 0.05, "rounding may decide between two equally good ones"


@pytest.mark.parametrize(
    ("bits", "group", "what"), [(9, 32, "9 bits"), (1, 32, "1 bits"), (4, 48, "groups of 48")]
)
def test_what_is_no_grid(bits: int, group: int, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        find_grid(weight(), bits, group)


@pytest.mark.parametrize(
    "options", [{}, {"symmetric": False}, {"act_order": True}, {"static_groups": True}, {"block": 40}]
)
def test_gptq_with_inputs_that_are_independent_rounds_to_the_nearest(options: dict) -> None:
    nearest = rtn(weight(), 4, GROUP, symmetric=options.get("symmetric", True))
    found = gptq(weight(), torch.eye(K), 4, GROUP, **options)
    assert torch.equal(found.q_NK, nearest.q_NK)
    assert torch.equal(found.values(), nearest.values())


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_is_optimal_brain_quantisation_in_a_fixed_order(act_order: bool) -> None:
    """Independent of any factorisation: after each column the rest takes the least-squares correction."""
    inputs = 32
    w, x = weight(inputs=inputs), correlated()[:, :inputs]
    hessian = hessian_of(x)
    found = gptq(w, hessian, 3, 16, static_groups=True, act_order=act_order, damp=0.01)
    h = hessian.numpy() + 0.01 * np.diag(hessian.numpy()).mean() * np.eye(inputs)
    grid, rest = find_grid(w, 3, 16), w.double().numpy().copy()
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(inputs)
    expected = np.zeros_like(rest)
    for n, i in enumerate(order):
        one = grid.column(int(i) // 16)
        q = one.round(torch.tensor(rest[:, i : i + 1]))
        expected[:, i] = q[:, 0].numpy()
        later = order[n + 1 :]
        if len(later):
            gone = rest[:, i] - one.values(q)[:, 0].double().numpy()
            rest[:, later] += gone[:, None] * np.linalg.solve(h[np.ix_(later, later)], h[later, i])
    assert (found.q_NK.numpy() != expected).mean() < 0.01, "float32 against float64 at ties"


def test_gptq_beats_the_nearest_on_correlated_inputs() -> None:
    wins = 0
    for seed in range(20):
        w, x = weight(seed), correlated(100 + seed)
        ours = lost(w, gptq(w, hessian_of(x), 4, GROUP).values(), x)
        wins += ours < lost(w, rtn(w, 4, GROUP).values(), x)
    assert wins >= 19


def test_gptq_with_dead_inputs_and_bad_ones() -> None:
    x = correlated()
    x[:, 5] = 0
    assert gptq(weight(), hessian_of(x), 4, GROUP).values().isfinite().all()
    with pytest.raises(InputError, match="not finite"):
        gptq(weight(), torch.full((K, K), torch.nan), 4, GROUP)
    with pytest.raises(ConfigError, match="damp"):
        gptq(weight(), hessian_of(x), 4, GROUP, damp=0.0)


def test_error_by_moments_is_the_error_on_the_inputs() -> None:
    w, x = weight(), correlated()
    values = rtn(w, 4, GROUP).values()
    assert output_error(w - values, hessian_of(x)) == pytest.approx(lost(w, values, x), rel=1e-4)


def test_awq_finds_1_for_even_inputs_and_wins_on_uneven_ones() -> None:
    w, x = weight(), correlated()
    assert torch.equal(awq_scales([w], torch.eye(K), torch.ones(K), 4, GROUP), torch.ones(K))
    hessian, mean_K = hessian_of(x), x.abs().mean(0)
    scale_K = awq_scales([w, 2 * w], hessian, mean_K, 4, GROUP)
    folded = rtn(w * scale_K, 4, GROUP)
    assert lost(w, folded.values() / scale_K, x) < lost(w, rtn(w, 4, GROUP).values(), x)
    torch.testing.assert_close((x / scale_K) @ (w * scale_K).T, x @ w.T, atol=1e-3, rtol=1e-5)


def test_clipping_never_loses_by_its_own_measure() -> None:
    w, x = weight(), correlated()
    hessian = hessian_of(x)
    own = torch.block_diag(*[hessian[i : i + GROUP, i : i + GROUP] for i in range(0, K, GROUP)])
    for symmetric in (True, False):
        clipped = awq_clip(w, hessian, 3, GROUP, symmetric=symmetric).values()
        nearest = rtn(w, 3, GROUP, symmetric=symmetric).values()
        assert output_error(w - clipped, own) < output_error(w - nearest, own)


@pytest.mark.parametrize("symmetric", [True, False])
def test_hqq_is_closer_than_the_nearest_on_weights_with_tails(symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand(N, K, generator=generator) - 0.5
    w = -0.02 * uniform.sign() * (1 - 2 * uniform.abs()).log()
    ours, nearest = hqq(w, 4, 64, symmetric=symmetric), rtn(w, 4, 64, symmetric=symmetric)
    before, after = ((w - one.values()).unflatten(1, (2, -1)).abs().mean(-1) for one in (nearest, ours))
    assert (after <= before).all()
    assert after.mean() < 0.999 * before.mean()
    assert ours.grid.symmetric == symmetric


def test_hqq_step_is_the_published_one() -> None:
    """mobiusml/hqq writes w * s + z with s the reciprocal of the step: one iteration in its own terms."""
    from hanok.compression.hqq import BETA, NORM, _shifted, shrink

    w = weight(7).numpy()[:, :32]
    start = find_grid(torch.tensor(w), 4, 32, symmetric=False)
    s, z = 1 / start.scales_NG.numpy(), start.zeros_NG.numpy()
    q = np.clip(np.round(w * s + z), 0, 15)
    d = w - (q - z) / s
    e = np.sign(d) * np.maximum(np.abs(d) - np.maximum(np.abs(d), 1e-12) ** (NORM - 1) / BETA, 0)
    expected = (q - (w - e) * s).mean(1)
    lost_NGk = torch.tensor(d)[:, None]
    found = _shifted(start, torch.tensor(q)[:, None], torch.tensor(w)[:, None] - shrink(lost_NGk, BETA))
    np.testing.assert_allclose(found.zeros_NG[:, 0].numpy(), expected, rtol=1e-4)


def eight(x: Tensor) -> Tensor:
    """Symmetric eight bits, one scale a row."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale


def test_smoothing_keeps_the_product_and_helps_where_an_input_sticks_out() -> None:
    generator = torch.Generator().manual_seed(4)
    x, w = torch.randn(200, K, generator=generator), weight()
    x[:, 9] *= 60
    s_K = smooth_scales(x.abs().amax(0), [w])
    np.testing.assert_allclose(
        s_K.numpy(),
        np.maximum(x.abs().amax(0).numpy() ** 0.5 / w.abs().amax(0).numpy() ** 0.5, 1e-5),
        rtol=1e-5,
    )
    exact = x.double() @ w.double().T
    torch.testing.assert_close((x.double() / s_K) @ (w.double() * s_K).T, exact, atol=1e-10, rtol=0)
    rough = (eight(x) @ eight(w).T - exact).square().mean()
    smooth = (eight(x / s_K) @ eight(w * s_K).T - exact).square().mean()
    assert smooth < 0.5 * rough
    with pytest.raises(ConfigError, match="alpha"):
        smooth_scales(s_K, [w], alpha=1.5)


def test_a_group_of_zeros() -> None:
    w = weight()
    w[:, :GROUP] = 0
    for symmetric in (True, False):
        for codes in (rtn(w, 3, GROUP, symmetric=symmetric), hqq(w, 3, GROUP, symmetric=symmetric)):
            assert not codes.values()[:, :GROUP].any()
            assert codes.values().isfinite().all()
    assert isinstance(encode(w, find_grid(w, 5, GROUP)).grid, Grid)
