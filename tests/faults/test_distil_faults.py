"""Distillation that is killed and started again goes through the same numbers, in its preparation too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder

SETTINGS = (
    "--max-steps", "8", "--threads", "1", "--checkpoint-every", "2", "--max-seq-len", "96", "--tokens-per-step", "200",
    "--micro-batch-tokens", "128", "--muon-lr", "1e-3", "--adamw-lr", "1e-3", "--validate-every", "4", "--max-new-tokens", "6",
    "--answers", "600", "--top-k", "12", "--mixture", "chat-train=0.5", "text-train=0.5",
)  # fmt: skip
METHODS: dict[str, tuple[str, ...]] = {
    "on-policy": ("--on-policy", "0.5"),
    "logits": (),
    "minillm": ("--corpus-weight", "0.5"),
}


@pytest.fixture(scope="module")
def inputs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    config = tiny.tiny_model(vocab_size=266, hidden_size=64, head_dim=32)
    save_model(
        Decoder(config, generator=torch.Generator().manual_seed(0)), folder / "teacher", tokenizer_dir=shards
    )
    (folder / "shards").symlink_to(shards)
    return folder


def start(method: str, inputs: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hanok", "align", "distill", method, "--teacher", inputs / "teacher",
               "--shards", inputs / "shards", "--out", out]  # fmt: skip
    words = [str(word) for word in (*command, *METHODS[method], *SETTINGS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return errors


def kill(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < end and not when():
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 0)


def lines(file: Path) -> int:
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def log_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time.")} for row in rows]


@pytest.mark.parametrize(
    "method", ["on-policy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("logits", "minillm"))]
)
def test_a_killed_run_goes_on_bit_for_bit(method: str, inputs: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(method, inputs, straight))
    samples = "samples" if method != "minillm" else None
    if samples:  # while the teacher writes
        kill(start(method, inputs, killed), lambda: lines(killed / ".samples.partial.jsonl") >= 2)
    kill(start(method, inputs, killed), lambda: lines(killed / "metrics.jsonl") >= 4)
    errors = finish(start(method, inputs, killed))
    assert "resuming after step" in errors
    assert log_of(killed) == log_of(straight)
    names = ["model/model.safetensors", "checkpoints/step-000008/training/state.safetensors"]
    names += ["samples/chat-train.tokens.bin"] if samples else []
    names += ["logits/chat-train.logp.bin"] if method == "logits" else ["samples.jsonl"]
    for name in names:
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
    assert not list(killed.rglob(".*.partial*"))
