"""Log-probabilities and entropies in chunks, against the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hanok.training.objectives import logprobs
from hanok.training.objectives.logprobs import linear_logprobs


def case(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 12, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, 12, generator=generator, dtype=dtype) * 0.5
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=generator)


def plain(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.mT
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    logp = (logits / temperature).log_softmax(1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(1)


@pytest.mark.parametrize("rows", [1, 7, 64, 65, 130])
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, None), (1.3, 3.0)])
def test_values_and_gradients(
    rows: int, temperature: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "_CHUNK", 64)
    hidden, weight, targets = case(rows, 41)
    hidden.requires_grad_()
    weight.requires_grad_()
    ours = linear_logprobs(hidden, weight, targets, temperature=temperature, softcap=softcap)
    theirs = plain(hidden, weight, targets, temperature, softcap)
    a, b = torch.randn(2, rows, generator=torch.Generator().manual_seed(1))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=2e-6)
    for combine in (
        lambda x: (a * x[0]).sum(),
        lambda x: (b * x[1]).sum(),
        lambda x: (a * x[0] + b * x[1]).sum(),
    ):
        mine = torch.autograd.grad(combine(ours), (hidden, weight), retain_graph=True)
        other = torch.autograd.grad(combine(theirs), (hidden, weight), retain_graph=True)
        for x, y in zip(mine, other, strict=True):
            assert torch.allclose(x, y, atol=1e-5)


def test_gradients_are_finite_differences() -> None:
    hidden, weight, targets = case(5, 9, torch.float64)

    def both(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return linear_logprobs(h, w, targets, dtype=torch.float64, temperature=0.8, softcap=4.0)

    assert torch.autograd.gradcheck(both, (hidden.requires_grad_(), weight.requires_grad_()))


def test_a_frozen_head_gets_no_gradient_and_no_rows_are_no_trouble() -> None:
    hidden, weight, targets = case(6, 9)
    logp, _ = linear_logprobs(hidden.requires_grad_(), weight, targets)
    logp.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    logp, entropy = linear_logprobs(hidden[:0], weight, targets[:0])
    assert logp.shape == entropy.shape == (0,)


def test_bfloat16_products_are_near() -> None:
    hidden, weight, targets = case(300, 100)
    exact, _ = linear_logprobs(hidden, weight, targets)
    near, _ = linear_logprobs(hidden, weight, targets, dtype=torch.bfloat16)
    assert near.dtype == torch.float32
    assert float((near - exact).abs().mean()) < 0.01
