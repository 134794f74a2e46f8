"""Kimi Delta Attention: native = chunk form = recurrence = fla's naive recurrence, in outputs, final state and all gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels.kda import kda_step, recurrent_kda
from hanok.kernels.kda.chunked import chunked_kda
from hanok.kernels.kda.native import native_kda
from hanok.kernels.native import native, native_available

needs_native = pytest.mark.skipif(not native_available(), reason="native kernels are not built")
PATHS = [pytest.param(chunked_kda, id="torch"), pytest.param(native_kda, id="native", marks=needs_native)]
BOUNDS = [
    [0, 1],
    [0, 15],
    [0, 63],
    [0, 64],
    [0, 65],
    [0, 200],
    [0, 15, 100, 300],
    [0, 31, 96, 160],
    [0, 4, 4, 9],
]
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "logsigmoid": F.logsigmoid,
    "weak": lambda x: F.logsigmoid(x) / 100,
    "zero": torch.zeros_like,
    "half-zero": lambda x: F.logsigmoid(x) * (x > 0),
    "extreme": lambda x: -16 * F.softplus(10 * x),
}


def make_inputs(
    bounds: list[int], heads: int, key: int, value: int, gate: str = "logsigmoid"
) -> list[Tensor]:
    torch.manual_seed(42)
    n = bounds[-1]
    q, k = (F.normalize(torch.rand(n, heads, key), dim=-1) for _ in range(2))
    inputs = [
        q,
        k,
        torch.rand(n, heads, value),
        GATES[gate](torch.randn(n, heads, key)),
        torch.rand(n, heads),
    ]
    return [x.requires_grad_() for x in (*inputs, torch.randn(len(bounds) - 1, heads, key, value))]


def everything(path: Callable, inputs: list[Tensor], bounds: list[int]) -> list[Tensor]:
    """Output, final state and the six gradients, the state's own gradient exercised too."""
    o, state = path(
        *inputs[:5], cu_seqlens=torch.tensor(bounds, dtype=torch.int32), initial_state_BHKV=inputs[5],
        output_final_state=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (o, state))
    return [o, state, *torch.autograd.grad(loss, inputs)]


def assert_near(got: list[Tensor], expected: list[Tensor], forward: float, backward: float) -> None:
    """RMS of the difference over RMS of the reference; passes outright below 1e-6 absolute."""
    for name, ours, theirs in zip(
        ("o", "state", "dq", "dk", "dv", "dg", "dbeta", "dstate"), got, expected, strict=True
    ):
        assert torch.isfinite(ours).all(), name
        difference = ours - theirs
        if difference.numel() == 0 or difference.abs().max() <= 1e-6:
            continue
        ratio = difference.square().mean().sqrt() / theirs.square().mean().sqrt()
        assert ratio < (forward if name in ("o", "state") else backward), f"{name}: {ratio:.2e}"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize(("key", "value"), [(60, 40), (16, 32), (32, 16)])
def test_chunk_equals_recurrence(path: Callable, bounds: list[int], key: int, value: int) -> None:
    inputs = make_inputs(bounds, 2, key, value)
    assert_near(everything(path, inputs, bounds), everything(recurrent_kda, inputs, bounds), 1e-5, 1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gate", GATES)
def test_gates(path: Callable, gate: str) -> None:
    inputs = make_inputs([0, 100, 130], 2, 24, 20, gate)
    assert_near(
        everything(path, inputs, [0, 100, 130]), everything(recurrent_kda, inputs, [0, 100, 130]), 1e-4, 3e-4
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_beta_at_its_ends(path: Callable, beta: float) -> None:
    inputs = make_inputs([0, 70], 1, 16, 24)
    inputs[4] = torch.full((70, 1), beta, requires_grad=True)
    assert_near(everything(path, inputs, [0, 70]), everything(recurrent_kda, inputs, [0, 70]), 1e-5, 1e-4)


def fla_naive() -> Callable:
    """fla's reference by its file: importing the package wants a GPU."""
    import sys
    from pathlib import Path

    for folder in sys.path:
        file = Path(folder) / "fla" / "ops" / "kda" / "naive.py"
        if file.is_file():
            spec = importlib.util.spec_from_file_location("fla_naive_kda", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.naive_recurrent_kda
    pytest.skip("fla-core is not installed")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("length", "heads", "key", "value"), [(63, 1, 64, 64), (200, 2, 60, 40), (65, 3, 100, 20)]
)
def test_equals_fla(path: Callable, length: int, heads: int, key: int, value: int) -> None:
    pytest.importorskip("einops")
    naive = fla_naive()

    def theirs(q, k, v, g, beta, *, cu_seqlens, initial_state_BHKV, output_final_state):
        o, state = naive(
            *(x[None] for x in (q, k, v, g, beta)), initial_state=initial_state_BHKV, output_final_state=True
        )
        return o[0], state

    inputs = make_inputs([0, length], heads, key, value)
    assert_near(everything(path, inputs, [0, length]), everything(theirs, inputs, [0, length]), 1e-5, 1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prefix", [5, 16, 21, 63, 64, 100])
def test_a_prefix_never_sees_what_follows(path: Callable, prefix: int) -> None:
    inputs = [x.detach() for x in make_inputs([0, 150], 2, 32, 24)]
    bounds = torch.tensor([0, 150], dtype=torch.int32)
    before, _ = path(*inputs[:5], cu_seqlens=bounds)
    poisoned = [x.clone() for x in inputs[:5]]
    for x in poisoned:
        x[prefix:] = float("nan")
    after, _ = path(*poisoned, cu_seqlens=bounds)
    if path is native_kda:
        assert torch.equal(before[:prefix], after[:prefix])
    else:  # a vectorised sum may group differently around a NaN; the values stay
        torch.testing.assert_close(before[: prefix // 64 * 64], after[: prefix // 64 * 64], atol=1e-6, rtol=0)


def test_algebra() -> None:
    """No writing = pure decay; no decay, full writing, orthonormal keys = exact recall."""
    key = 8
    state = torch.randn(1, 1, key, 4)
    k, v, zero = torch.eye(key)[:, None], torch.randn(key, 1, 4), torch.zeros(key, 1, key)
    bounds = torch.tensor([0, key], dtype=torch.int32)
    g = -torch.rand(key, 1, key)
    _, decayed = recurrent_kda(
        k, k, v, g, torch.zeros(key, 1), cu_seqlens=bounds, initial_state_BHKV=state, output_final_state=True
    )
    torch.testing.assert_close(decayed, state * g.sum(0).exp()[None, ..., None])
    _, written = recurrent_kda(k, k, v, zero, torch.ones(key, 1), cu_seqlens=bounds, output_final_state=True)
    recalled = torch.einsum("tk,kv->tv", k[:, 0], written[0, 0])
    torch.testing.assert_close(recalled, v[:, 0])


@needs_native
def test_step_equals_recurrence() -> None:
    inputs = [x.detach() for x in make_inputs([0, 1, 2, 3], 3, 20, 36)]
    expected = recurrent_kda(
        *inputs[:5],
        cu_seqlens=torch.arange(4, dtype=torch.int32),
        initial_state_BHKV=inputs[5],
        output_final_state=True,
    )
    before = inputs[5].clone()
    for ours, theirs in zip(kda_step(*inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(before, inputs[5])


@needs_native
def test_threads_and_instruction_sets() -> None:
    """Bit-equal for any number of threads; equal within rounding for any instruction set."""
    module = native()
    assert module is not None
    bounds = [0, 70, 200, 203]
    inputs = make_inputs(bounds, 3, 40, 24)
    threads = module.num_threads()
    try:
        module.set_num_threads(1)
        one = everything(native_kda, inputs, bounds)
        module.set_num_threads(3)
        for a, b in zip(one, everything(native_kda, inputs, bounds), strict=True):
            assert torch.equal(a, b)
        for name in module.instruction_sets():
            module.use_instruction_set(name)
            assert_near(everything(native_kda, inputs, bounds), one, 1e-5, 1e-4)
    finally:
        module.set_num_threads(threads)
        module.use_instruction_set(module.instruction_sets()[0])
