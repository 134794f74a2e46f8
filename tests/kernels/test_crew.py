"""Threads of the native step: none is lost, none waits for ever, whenever a crew begins, works and ends.

In a process of its own with a time limit: what fails here hangs.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from hanok.kernels.native import native_available

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")

MANY_CREWS = """
import torch
from hanok.kernels.packed import pack, product

weight = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
matrix, x = pack(weight, "int8"), torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
expected = product(matrix, x)
for number in range(1000):  # each call makes a crew, lets it work and ends it, most threads never having had a core
    assert torch.equal(product(matrix, x, threads=2 + number % 15), expected), number
"""
LATE_THREADS = """
import time
import torch
from hanok.engine.native import NativeDecoder
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder

config = ModelConfig(vocab_size=90, hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=16,
                     intermediate_size=96, pattern=("gqa",), max_context=640)
decoder = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
step = ([1], [0], [0], [[0]], [0])
expected = NativeDecoder(decoder, kind="int8", blocks=1, threads=1).step(*step)
for number in range(12):  # far more threads than cores: most are late for most loops, and the last step is followed by the end
    model = NativeDecoder(decoder, kind="int8", blocks=1, threads=12)
    for pause in (0, 0, 1e-4, 0, 2e-3, 0, 0):
        time.sleep(pause)  # some threads fall asleep between two steps, others do not
        assert torch.equal(model.step(*step), expected), number
"""


@pytest.mark.parametrize("program", [MANY_CREWS, LATE_THREADS], ids=["many crews", "late threads"])
def test_none_hangs(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
