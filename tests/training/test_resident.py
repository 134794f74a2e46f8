"""Ragged batches hardly ever have a shape twice: what a process holds must not grow with the shapes that it has seen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PRODUCTS = """
import hanok, torch
from hanok.bench.memory_side import resident
x_ND, w_DK = torch.randn(700, 256, dtype=torch.bfloat16), torch.randn(256, 512, dtype=torch.bfloat16, requires_grad=True)
def products(lengths):
    for length in lengths:
        (x_ND[:length] @ w_DK).float().sum().backward()
products(range(300, 330))
before = resident()
products(range(330, 630))
print(resident() - before)
"""


def _growth(**environment: str) -> int:
    """Bytes, by 300 further shapes."""
    inherited = {name: value for name, value in os.environ.items() if name not in _KEPT}
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCTS], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )  # fmt: skip
    return int(done.stdout)


_KEPT = {"LRU_CACHE_CAPACITY": "1024", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="this system tells no resident size in /proc"
)
def test_products_of_many_shapes_take_no_memory_for_each() -> None:
    if _growth(**_KEPT) < 60 << 20:
        pytest.skip("PyTorch keeps little for a shape on this processor")
    assert _growth() < 30 << 20
