"""Muon and AdamW against torch's own, and their state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hanok.errors import CheckpointError
from hanok.training.average import WeightAverage
from hanok.training.config import TrainConfig
from hanok.training.optim import AdamW, Muon, Optimiser, newton_schulz

SHAPES = {"a": (24, 24), "b": (24, 24), "wide": (16, 48), "tall": (48, 16)}


def matrices(seed: int) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(*shape, generator=generator)) for name, shape in SHAPES.items()}


def set_gradients(parameters: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_newton_schulz_brings_singular_values_near_one() -> None:
    stack = torch.randn(5, 32, 80, generator=torch.Generator().manual_seed(0))
    for matrix in (stack, stack.mT):
        values = torch.linalg.svdvals(newton_schulz(matrix, steps=5, dtype=torch.float32))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_equals_torch() -> None:
    ours, theirs = matrices(0), matrices(0)
    muon = Muon(ours, lr=0.02, weight_decay=0.1, momentum=0.95, steps=5, dtype=torch.bfloat16)
    reference = torch.optim.Muon(
        list(theirs.values()), lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        muon.step(1.0)
        reference.step()
    for name in SHAPES:
        moved = (theirs[name] - matrices(0)[name]).norm()
        assert (ours[name] - theirs[name]).norm() < 0.02 * moved, name


def test_experts_are_a_stack_of_matrices() -> None:
    generator = torch.Generator().manual_seed(1)
    stacked = nn.Parameter(torch.randn(3, 8, 12, generator=generator))
    single = {str(i): nn.Parameter(stacked[i].detach().clone()) for i in range(3)}
    stacked.grad = torch.randn(3, 8, 12, generator=generator)
    for i in range(3):
        single[str(i)].grad = stacked.grad[i].clone()
    options = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "steps": 5, "dtype": torch.float32}
    Muon({"experts": stacked}, **options).step(1.0)  # type: ignore[arg-type]
    Muon(single, **options).step(1.0)  # type: ignore[arg-type]
    assert torch.allclose(stacked, torch.stack(list(single.values())), atol=1e-6)


def test_adamw_equals_torch() -> None:
    ours, theirs = matrices(0), matrices(0)
    adamw = AdamW(
        {"a": ours["a"]},
        {n: ours[n] for n in ("b", "wide", "tall")},
        lr=0.01,
        betas=(0.9, 0.95),
        weight_decay=0.1,
    )
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["a"]], "weight_decay": 0.1},
            {"params": [theirs[n] for n in ("b", "wide", "tall")], "weight_decay": 0.0},
        ],
        lr=0.01, betas=(0.9, 0.95), eps=1e-10, fused=True,
    )  # fmt: skip
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        adamw.step(1.0)
        reference.step()
    for name in SHAPES:
        assert torch.equal(ours[name], theirs[name])


def make_optimiser(parameters: dict[str, nn.Parameter]) -> Optimiser:
    hints = {"a": "matrix", "b": "matrix", "wide": "head", "tall": "embedding"}
    return Optimiser(parameters, hints, TrainConfig(max_steps=1), dtype=torch.float32)


def test_state_goes_on_exactly() -> None:
    straight, resumed = matrices(0), matrices(0)
    optimiser = make_optimiser(straight)
    for step in range(3):
        set_gradients(straight, step)
        optimiser.step(1.0, gradient_scale=0.5)
    kept = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    for name, parameter in resumed.items():
        parameter.data.copy_(straight[name].data)
    again = make_optimiser(resumed)
    again.restore(kept)
    for step in range(3, 6):
        for one, parameters in ((optimiser, straight), (again, resumed)):
            set_gradients(parameters, step)
            one.step(0.7, gradient_scale=1.0)
    for name in SHAPES:
        assert torch.equal(straight[name], resumed[name])
    with pytest.raises(CheckpointError, match="missing"):
        again.restore({})


def test_gradient_norm_is_of_everything() -> None:
    parameters = matrices(0)
    optimiser = make_optimiser(parameters)
    set_gradients(parameters, 3)
    expected = torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None]).norm()
    assert optimiser.gradient_norm() == pytest.approx(float(expected), rel=1e-5)


def test_frozen_parameters_stay() -> None:
    parameters = matrices(0)
    parameters["a"].requires_grad_(False)
    optimiser = make_optimiser(parameters)
    before = parameters["a"].clone()
    set_gradients({n: p for n, p in parameters.items() if n != "a"}, 0)
    optimiser.step(1.0, gradient_scale=1.0)
    assert torch.equal(parameters["a"], before)


def test_average_follows_and_swaps() -> None:
    parameters = {"w": nn.Parameter(torch.zeros(3))}
    average = WeightAverage(parameters, decay=0.5)
    parameters["w"].data.fill_(1.0)
    for update in range(1, 40):
        average.update(update)
    parameters["w"].data.fill_(2.0)
    with average.applied():
        assert torch.allclose(parameters["w"], torch.ones(3), atol=1e-3)
    assert torch.equal(parameters["w"], torch.full((3,), 2.0))
    fresh = WeightAverage(parameters, decay=0.5)
    fresh.restore(average.state())
    with fresh.applied():
        assert torch.allclose(parameters["w"], torch.ones(3), atol=1e-3)
