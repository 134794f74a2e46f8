"""Norms, gates and cross-entropy: native = PyTorch, in values and all gradients, over odd widths and both types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanok.kernels import native
from hanok.kernels.cross_entropy import softmax_cross_entropy_
from hanok.kernels.gates import log_decay, swiglu
from hanok.kernels.norms import gated_rms_norm, rms_norm, split_normalised

pytestmark = pytest.mark.skipif(not native.native_available(), reason="native kernels are not built")
WIDTHS = [3, 7, 16, 48, 100]
TYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


@pytest.fixture(params=["avx512", "avx2", "portable"], autouse=True)
def instruction_set(request: pytest.FixtureRequest):
    module = native.native()
    if request.param not in module.instruction_sets():
        pytest.skip(f"this processor lacks {request.param}")
    module.use_instruction_set(request.param)
    yield
    module.use_instruction_set(module.instruction_sets()[0])


def check(op: Callable[..., Tensor], expected: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """RMS of the difference over RMS of the float64 reference, for the value and the gradient of every input."""
    mine = [x.detach().clone().requires_grad_() for x in inputs]
    theirs = [x.detach().double().requires_grad_() for x in inputs]
    y, y_ref = op(*mine), expected(*theirs)
    weights = torch.randn(y.shape, dtype=torch.float64)
    gradients = torch.autograd.grad((y.double() * weights.to(y.dtype).double()).sum(), mine)
    reference = torch.autograd.grad((y_ref * weights.to(y.dtype).double()).sum(), theirs)
    tolerance = max(TOLERANCE[x.dtype] for x in inputs)
    for ours, ref in zip((y, *gradients), (y_ref, *reference), strict=True):
        error = (ours.double() - ref).square().mean().sqrt() / ref.square().mean().sqrt().clamp_min(1e-3)
        assert error < tolerance, error


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    inputs = [torch.randn(2300, width, dtype=dtype) * 3, torch.randn(width)]
    check(
        lambda x, w: rms_norm(x, w, 1e-5),
        lambda x, w: x * (x.square().mean(-1, True) + 1e-5).rsqrt() * w,
        inputs,
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_gated_rms_norm(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    inputs = [torch.randn(70, 3, width), torch.randn(70, 3, width, dtype=dtype) * 4, torch.randn(width)]

    def reference(o: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        return o * (o.square().mean(-1, True) + 1e-5).rsqrt() * weight * gate.sigmoid()

    check(lambda o, gate, weight: gated_rms_norm(o, gate, weight, 1e-5), reference, inputs)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    check(
        swiglu,
        lambda x: F.silu(x[:, :width]) * x[:, width:],
        [torch.randn(1100, 2 * width, dtype=dtype) * 4],
    )


@pytest.mark.parametrize("bound", [None, -5.0])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_log_decay(width: int, dtype: torch.dtype, bound: float | None) -> None:
    torch.manual_seed(width)
    inputs = [torch.randn(400, 3 * width, dtype=dtype) * 6, torch.rand(3) * 0.5, torch.randn(3 * width)]

    def reference(raw: Tensor, rate: Tensor, bias: Tensor) -> Tensor:
        x = (raw + bias).view(400, 3, width)
        return -rate[:, None] * F.softplus(x) if bound is None else bound * (rate[:, None] * x).sigmoid()

    check(lambda raw, rate, bias: log_decay(raw, rate, bias, bound), reference, inputs)


@pytest.mark.parametrize("width", WIDTHS)
def test_split_normalised(width: int) -> None:
    torch.manual_seed(width)

    def reference(qkv: Tensor) -> Tensor:
        q, k, v = (x.reshape(50, 2, width) for x in qkv.chunk(3, -1))
        q, k = (x * (x.square().sum(-1, True) + 1e-6).rsqrt() for x in (q, k))
        return torch.cat([q, k, v], -1)

    inputs = [torch.randn(50, 6 * width)]
    check(lambda qkv: torch.cat(split_normalised(qkv, 2), -1), reference, inputs)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocab", [1, 5, 16, 2047, 2064])
def test_cross_entropy(vocab: int, dtype: torch.dtype) -> None:
    torch.manual_seed(vocab)
    logits = (torch.randn(300, vocab) * 8).to(dtype)
    logits[0] -= 200.0  # far from zero, so that only the differences count
    targets = torch.randint(vocab, (300,))
    reference = logits.double().requires_grad_()
    expected = F.cross_entropy(reference, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), reference)
    nats = softmax_cross_entropy_(logits, targets)
    torch.testing.assert_close(nats.double(), expected.detach(), atol=2e-5, rtol=1e-6)
    torch.testing.assert_close(logits.double(), gradient, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_fallback_equals_native(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, gate = torch.randn(9, 12), torch.randn(12), torch.randn(9, 12)
    rate, targets = torch.rand(2), torch.randint(12, (9,))
    operations: list[Callable[[], Tensor]] = [
        lambda: rms_norm(x, weight, 1e-6),
        lambda: gated_rms_norm(x, gate, weight, 1e-6),
        lambda: swiglu(x),
        lambda: log_decay(x, rate, weight, None),
        lambda: log_decay(x, rate, weight, -5.0),
        lambda: torch.stack(split_normalised(x, 2)),
        lambda: softmax_cross_entropy_(x.clone(), targets),
    ]
    ours = [operation() for operation in operations]
    for name in ("norms", "gates", "cross_entropy"):
        monkeypatch.setattr(f"hanok.kernels.{name}.runs_native", lambda _: False)
    for operation, result in zip(operations, ours, strict=True):
        torch.testing.assert_close(operation(), result)


def test_sums_do_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5000, 33), torch.randn(33, requires_grad=True)
    results = []
    for threads in (1, 2, 3):
        native.set_num_threads(threads)
        results.append(torch.autograd.grad(rms_norm(x, weight, 1e-6).square().sum(), weight)[0])
    native.set_num_threads(torch.get_num_threads())
    assert all(torch.equal(results[0], other) for other in results[1:])
