"""Alignment that is killed and started again goes through the same numbers: weights, log, kept samples, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder

SETTINGS = (
    "--max-steps", "8", "--threads", "1", "--checkpoint-every", "2", "--max-seq-len", "64", "--micro-batch-tokens", "256",
    "--muon-lr", "1e-3", "--adamw-lr", "1e-3", "--validate-every", "4",
)  # fmt: skip
METHODS: dict[str, tuple[str, ...]] = {
    "dpo": ("--pairs-per-step", "4"),
    "grpo": (
        "--prompts-per-step",
        "4",
        "--group-size",
        "4",
        "--updates-per-rollout",
        "2",
        "--max-new-tokens",
        "6",
    ),
    "ppo": ("--prompts-per-step", "4", "--group-size", "2", "--max-new-tokens", "6", "--kl-beta", "0.01"),
}
REWARD = "def vowels(prompt, completion, columns):\n    return sum(c in 'aeiou' for c in completion) / 6\n"


@pytest.fixture(scope="module")
def inputs(tiny: ModuleType, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    decoder = Decoder(tiny.tiny_model(vocab_size=266), generator=torch.Generator().manual_seed(0))
    save_model(decoder, folder / "model", tokenizer_dir=shards)
    rows = [{"id": str(i), "prompt": f"ask {i}", "chosen": "yes", "rejected": "no no"} for i in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    return folder


def start(method: str, inputs: Path, out: Path) -> subprocess.Popen[str]:
    data = ("--data", inputs / "rows.jsonl")
    if method != "dpo":
        data = ("--prompts", inputs / "rows.jsonl", "--reward", f"{inputs / 'rewards.py'}:vowels")
    command = [
        sys.executable,
        "-m",
        "hanok",
        "align",
        method,
        "--model",
        inputs / "model",
        "--out",
        out,
        *data,
    ]
    words = [str(word) for word in (*command, *SETTINGS, *METHODS[method])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time.")} for line in lines]


@pytest.mark.parametrize("method", ["dpo", pytest.param("ppo", marks=pytest.mark.slow), "grpo"])
def test_a_killed_run_goes_on_bit_for_bit(method: str, inputs: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = start(method, inputs, straight)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    process = start(method, inputs, killed)
    end = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < end:
        log = killed / "metrics.jsonl"
        if (
            log.exists() and len(log.read_bytes().splitlines()) >= 4
        ):  # behind the first checkpoint, within a roll-out
            break
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 0)
    process = start(method, inputs, killed)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "resuming after step" in errors
    assert log_of(killed) == log_of(straight)
    names = ["model/model.safetensors", "checkpoints/step-000008/training/state.safetensors"]
    names += ["samples.jsonl"] if method != "dpo" else ["reference/reference.safetensors"]
    names += ["model/value_head.safetensors"] if method == "ppo" else []
    for name in names:
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
