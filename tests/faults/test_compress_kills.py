"""SIGKILL at random moments: what stands under the result's name is whole or not there, and the same command ends the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hanok.artefacts import open_artefact
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens import Tokenizer

pytestmark = pytest.mark.faults
KILLS = 8


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=128, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=32,
        intermediate_size=256, pattern=("gqa",),
    )  # fmt: skip
    (tmp_path / "model").mkdir()
    save_model(Decoder(config, generator=torch.Generator().manual_seed(0)), tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    text = "".join(f"Line {n} of the book says {n * 37 % 101}.\n" for n in range(800))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    words = "compress model --data text.txt --method gptq --length 64 --samples 40 --held-out 4 --seed 1"
    return [sys.executable, "-m", "hanok", *words.split()]


def test_kills_leave_no_half_model(command: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run([*command, "--out", "whole"], cwd=tmp_path, check=True, env=env, capture_output=True)
    length, rng, killed = time.monotonic() - started, random.Random(3), 0
    while killed < KILLS and not (tmp_path / "out").exists():
        process = subprocess.Popen(
            [*command, "--out", "out"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0.3, 0.98) * length)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        if (tmp_path / "out").exists():
            open_artefact(tmp_path / "out", kind="model")  # every file against its hash
    if not (tmp_path / "out").exists():
        subprocess.run([*command, "--out", "out"], cwd=tmp_path, check=True, env=env, capture_output=True)
    files = [
        open_artefact(tmp_path / name, kind="model").files["model.safetensors"] for name in ("whole", "out")
    ]
    assert files[0]["sha256"] == files[1]["sha256"]
    assert not list(tmp_path.glob(".out.layers"))
