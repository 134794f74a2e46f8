"""Pruning: exact counts and the order of errors. Rotations: orthogonal, and a network that does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hanok.compression.grid import find_grid
from hanok.compression.hessian import hessian_of
from hanok.compression.prune import Sparsity, keep_mask, magnitude_scores, wanda_scores
from hanok.compression.rotation import fold_norm, hadamard, random_rotation, rotate_reader, rotate_writer
from hanok.compression.smooth import smooth_scales
from hanok.compression.sparsegpt import sparsegpt
from hanok.errors import ConfigError

N, K = 24, 128
HALF, TWO_OF_FOUR, FOUR_OF_EIGHT = Sparsity(share=0.5), Sparsity(drop=2, of=4), Sparsity(drop=4, of=8)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(seed: int) -> Tensor:
    """Inputs of few directions, whose neighbours are of very different sizes."""
    x_MK = drawn(seed, 400, 24) @ drawn(seed + 1, 24, K)
    order_K = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    return (x_MK + 0.3 * drawn(seed + 2, 400, K)) * torch.logspace(-1, 1, K)[order_K]


@pytest.mark.parametrize("sparsity", [HALF, Sparsity(share=0.3), TWO_OF_FOUR, FOUR_OF_EIGHT], ids=str)
def test_counts_are_exact(sparsity: Sparsity) -> None:
    w, x = drawn(0, N, K), correlated(1)
    w[3] = 1.0  # all scores of a row equal
    keep = keep_mask(wanda_scores(w, x.norm(dim=0)), sparsity)
    pruned = sparsegpt(w, hessian_of(x), sparsity, block=32)
    if sparsity.of:
        for mask in (keep, pruned != 0):
            assert (mask.unflatten(1, (-1, sparsity.of)).sum(-1) == sparsity.of - sparsity.drop).all()
        return
    assert ((~keep).sum(1) == int(sparsity.share * K)).all()
    zeros = (pruned == 0).unflatten(1, (-1, 32)).sum((0, 2))
    assert (zeros == int(sparsity.share * N * 32)).all()


def test_wanda_with_even_inputs_is_size_by_row() -> None:
    w = drawn(0, N, K)
    assert torch.equal(keep_mask(wanda_scores(w, torch.ones(K)), HALF), keep_mask(magnitude_scores(w), HALF))
    expected = np.sort(np.abs(w.numpy()), axis=1)[:, K // 2 :]
    found = np.sort(np.abs(w.numpy())[keep_mask(magnitude_scores(w), HALF).numpy()].reshape(N, -1), axis=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sparsity", [HALF, TWO_OF_FOUR], ids=str)
def test_sparsegpt_loses_least_and_size_alone_most(sparsity: Sparsity) -> None:
    for seed in range(5):
        w, x = drawn(seed, N, K), correlated(50 + seed)
        size = torch.where(keep_mask(magnitude_scores(w), sparsity), w, 0)
        wanda = torch.where(keep_mask(wanda_scores(w, x.norm(dim=0)), sparsity), w, 0)
        ours = sparsegpt(w, hessian_of(x), sparsity)
        losses = [float(((w - one) @ x.T).square().sum()) for one in (ours, wanda, size)]
        assert losses == sorted(losses)


def test_what_is_left_is_the_least_squares_answer_for_one_lost_column() -> None:
    """Two inputs, one pruned: the other takes over the part that it predicts."""
    x = drawn(5, 500, 1) @ torch.tensor([[0.5, 1.0]]) + 0.3 * drawn(6, 500, 2)
    hessian, w = hessian_of(x), torch.tensor([[0.1, 1.0]])
    found = sparsegpt(w, hessian, Sparsity(drop=1, of=2), damp=1e-9)
    expected = 1.0 + 0.1 * float(hessian[0, 1] / hessian[1, 1])
    np.testing.assert_allclose(found.numpy(), [[0.0, expected]], rtol=1e-5)


def test_sparsity_that_is_none() -> None:
    for share, drop, of in ((1.0, 0, 0), (0.5, 4, 4), (0.5, 0, 4)):
        with pytest.raises(ConfigError):
            Sparsity(share=share, drop=drop, of=of)
    with pytest.raises(ConfigError, match="groups of 7"):
        keep_mask(drawn(0, 2, 32), Sparsity(drop=2, of=7))


@pytest.mark.parametrize("order", [1, 2, 12, 20, 24, 28, 36, 40, 44, 60, 64, 80, 96])
def test_hadamard_rows_are_orthogonal(order: int) -> None:
    matrix = hadamard(order)
    assert set(matrix.unique().tolist()) <= {1.0, -1.0}
    torch.testing.assert_close(
        matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64), atol=0, rtol=0
    )


def test_hadamard_of_no_such_order() -> None:
    for order in (0, 6, 52):
        with pytest.raises(ConfigError, match=f"order {order} "):
            hadamard(order)


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def test_a_rotated_network_says_the_same() -> None:
    """Two residual blocks with norms, an embedding and a head; turned inside, and behind the activation as well."""
    width, inner = 24, 40
    embed, head, final = (
        drawn(0, 11, width).double(),
        drawn(1, 11, width).double(),
        1 + 0.3 * drawn(2, width).double(),
    )
    blocks = [
        (1 + 0.3 * drawn(9 * i + 3, width).double(), drawn(9 * i + 4, inner, width).double(),
         drawn(9 * i + 5, width, inner).double() / inner)
        for i in range(2)
    ]  # fmt: skip

    def run(embed: Tensor, head: Tensor, final: Tensor, blocks: list, online: Tensor | None) -> Tensor:
        x = embed
        for norm, up, down in blocks:
            inside = torch.nn.functional.silu((rms(x) * norm) @ up.T)
            x = x + (inside if online is None else inside @ online) @ down.T
        return (rms(x) * final) @ head.T

    generator = torch.Generator().manual_seed(8)
    turn, online = random_rotation(width, generator), random_rotation(inner, generator)
    ones = torch.ones(width, dtype=torch.float64)
    turned = [
        (ones, rotate_reader(fold_norm(up, norm), turn), rotate_reader(rotate_writer(down, turn), online))
        for norm, up, down in blocks
    ]
    found = run(rotate_reader(embed, turn), rotate_reader(fold_norm(head, final), turn), ones, turned, online)
    torch.testing.assert_close(found, run(embed, head, final, blocks, None), atol=1e-10, rtol=0)


def test_an_outlier_hurts_four_bits_less_when_smoothed_and_least_when_rotated() -> None:
    width = 256
    x, w = drawn(1, 300, width), drawn(2, N, width) / width**0.5
    x[:, 17] *= 15

    def four(a: Tensor) -> Tensor:
        grid = find_grid(a, 4, width, symmetric=False)
        return grid.values(grid.round(a))

    def error(x: Tensor, w: Tensor) -> float:
        return float((four(x) @ four(w).T - exact).square().mean())

    exact = x @ w.T
    s_K = smooth_scales(x.abs().amax(0), [w])
    turn = random_rotation(width, torch.Generator().manual_seed(3)).float()
    assert error(x @ turn, rotate_reader(w, turn)) < error(x / s_K, w * s_K) < error(x, w)
