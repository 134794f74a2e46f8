"""Alignment that is killed and started again goes through the same numbers: weights, log, kept samples, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
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
def inputs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    decoder = Decoder(tiny.tiny_model(vocab_size=266), generator=torch.Generator().manual_seed(0))
    save_model(decoder, folder / "model", tokenizer_dir=shards)
    rows = [{"id": str(i), "prompt": f"ask {i}", "chosen": "yes", "rejected": "no no"} for i in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    return folder


def start(method: str, inputs: Path, out: Path, *more: str) -> subprocess.Popen[str]:
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
    words = [str(word) for word in (*command, *SETTINGS, *METHODS[method], *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time.")} for line in lines]


def kill_at(process: subprocess.Popen[str], out: Path, *, lines: int) -> None:
    log, end = out / "metrics.jsonl", time.monotonic() + 200
    while process.poll() is None and time.monotonic() < end:
        if log.exists() and len(log.read_bytes().splitlines()) >= lines:
            break
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 0)


@pytest.mark.parametrize(
    "method", ["grpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpo", "ppo"))]
)
def test_a_killed_run_goes_on_bit_for_bit(method: str, inputs: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = start(method, inputs, straight)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    process = start(method, inputs, killed)
    kill_at(process, killed, lines=4)  # behind the first checkpoint, within a roll-out
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


def test_a_killed_overlapped_run_loses_no_draw_and_uses_none_twice(inputs: Path, tmp_path: Path) -> None:
    """Killed twice, once between the updates of a roll-out: the ledger is that of a run that was never killed, but for what
    is a matter of time."""
    out, words = tmp_path / "out", ("--overlap", "2", "--threads", "2", "--max-steps", "16")
    for lines in (5, 11):  # metrics, validations among them; checkpoints lie behind every second step
        kill_at(start("grpo", inputs, out, *words), out, lines=lines)
    process = start("grpo", inputs, out, *words)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "resuming after step" in errors
    ledger = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [row["rollout"] for row in ledger] == list(range(8))
    assert [row["step"] for row in ledger] == list(range(1, 17, 2))
    assert [draw for row in ledger for draw in row["draws"]] == list(range(32))
    assert all(0 <= row["step"] - 1 - row["begun"] <= 2 * 2 for row in ledger)
    steps = [row["step"] for row in log_of(out) if "loss" in row]
    assert steps == list(range(1, 17))
    learnt = [row["data"] for row in log_of(out) if "loss" in row]
    assert len(set(learnt)) == 16
