"""A model of real size, Qwen3-0.6B with random weights in bfloat16: how fast and how lean it loads, and its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanok.models.checkpoint import load_model, save_model
from hanok.models.decoder import Decoder
from hanok.models.families import read_config

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
QWEN3_06B = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
    "rope_theta": 1e6, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
}  # fmt: skip
_LOAD = """
import json, sys, time
from pathlib import Path
from hanok.models.checkpoint import load_model

def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

open("/proc/self/clear_refs", "w").write("5")  # forget the peak, which a child begins with its parent's
before = memory("VmRSS")
start = time.perf_counter()
model = load_model(Path(sys.argv[1]), dtype="stored")
seconds = time.perf_counter() - start
print(json.dumps([seconds, memory("VmHWM") - before]))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Decoder(read_config(QWEN3_06B))
    for name, parameter in model.named_parameters():
        parameter.data = (torch.ones if "norm" in name else torch.randn)(
            parameter.shape, dtype=torch.bfloat16
        )
        parameter.data *= 1 if "norm" in name else 0.02
    path = tmp_path_factory.mktemp("qwen3")
    save_model(model, path)
    return path


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux' /proc"
)
def test_loading_takes_little_more_memory_than_the_file(directory: Path) -> None:
    size = (directory / "model.safetensors").stat().st_size
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(directory)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    print("seconds and bytes:", runs, "file:", size)
    peak = min(memory for _, memory in runs)
    assert 0 < peak < 1.2 * size


def test_bfloat16_is_as_near_to_float32_as_that_of_transformers(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding differs between the two in order, not in kind: both are measured against float32, and ours may be at most
    a fifth further off."""
    monkeypatch.setitem(sys.modules, "fla", None)
    transformers = pytest.importorskip("transformers")
    ids = torch.randint(151936, (32,), generator=torch.Generator().manual_seed(1))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(directory, dtype=dtype)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
        with torch.no_grad():
            hidden, _ = model(ids, torch.tensor([0, 32], dtype=torch.int32))
            found[dtype] = model.logits(hidden), theirs(ids[None]).logits[0].float()
        del model, theirs
    exact, peer_exact = found[torch.float32]
    torch.testing.assert_close(exact, peer_exact, atol=1e-3, rtol=1e-3)
    ours, theirs = ((logits - exact).square().mean().sqrt().item() for logits in found[torch.bfloat16])
    print("error of bfloat16: ours", ours, "theirs", theirs, "of", exact.std().item())
    assert ours < 1.2 * theirs
