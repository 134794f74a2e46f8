"""The way to fla-core's kernels: what they are given, and that wrong ones are not used. Their place is taken by `fla`'s own
naive form, or by a wrong one; the kernels themselves run in `tests/training/test_gpu.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hanok.kernels.kda import gpu
from hanok.kernels.kda.reference import kda_step

CPU = torch.device("cpu")


def like_theirs(change: Callable[[Tensor], Tensor] = lambda o: o) -> SimpleNamespace:
    """Their signature, [1, N, H, K], token by token."""

    def chunk_kda(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
        initial_state: Tensor | None = None, output_final_state: bool = False, cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        assert q.shape[0] == 1
        assert cu_seqlens is not None
        assert cu_seqlens.dtype == torch.long
        outputs, finals = [], []
        for b, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
            state = (
                q.new_zeros(1, q.shape[2], q.shape[3], v.shape[3])
                if initial_state is None
                else initial_state[b : b + 1]
            )
            for t in range(start, end):
                o, state = kda_step(*(x[:, t] for x in (q, k, v, g, beta)), state, scale=scale)
                outputs.append(o)
            finals.append(state)
        return change(torch.stack(outputs, dim=1)), torch.cat(finals) if output_final_state else None

    return SimpleNamespace(chunk_kda=chunk_kda)


def use(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    gpu.fla_agrees.cache_clear()
    monkeypatch.setitem(sys.modules, "fla.ops.kda", module)
    if module is not None:
        monkeypatch.setitem(sys.modules, "fla", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "fla.ops", SimpleNamespace())


def test_kernels_that_agree_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, like_theirs())
    assert gpu._largest_error(16, 8, CPU) < 1e-4
    assert gpu.fla_agrees(16, 8, CPU)


@pytest.mark.parametrize(("module", "what"), [
    (None, "not installed"), (like_theirs(lambda o: o * 1.1), "off by"), (like_theirs(lambda o: o * torch.nan), "off by"),
    (SimpleNamespace(chunk_kda=lambda *_, **__: 1 / 0), "fails here"),
])  # fmt: skip
def test_others_are_not_and_the_log_says_why(
    module: Any, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, module)
    with caplog.at_level("INFO"):
        assert not gpu.fla_agrees(16, 8, CPU)
        assert not gpu.fla_agrees(16, 8, CPU)
    assert what in caplog.text
    assert caplog.text.count("runs in PyTorch") == 1


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    gpu.fla_agrees.cache_clear()
