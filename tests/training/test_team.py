"""Two processes with FSDP2 go through the same numbers as one, and either goes on where the other stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.errors import ConfigError
from hanok.models.checkpoint import load_model
from hanok.training.team import Team

WORKER = Path(tiny.__file__)
SETTINGS: dict[str, Any] = {"max_steps": 12, "micro_batch_tokens": 128, "ema_decay": 0.9}


def start(shards: Path, out: Path, *, processes: int, **changes: Any) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1",
               f"--master-port={port}"] if processes > 1 else []  # fmt: skip
    command = [
        sys.executable,
        *several,
        str(WORKER),
        str(shards),
        str(out),
        json.dumps({**SETTINGS, **changes}),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return errors


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


MODELS = {
    "hybrid": {},
    "odd rows": {
        "pattern": ("gqa",),
        "hidden_size": 18,
        "num_heads": 3,
        "head_dim": 6,
        "intermediate_size": 27,
    },
    "experts": {
        "pattern": ("gqa",),
        "moe": {"experts": 5, "per_token": 2, "width": 16, "router": "sigmoid"},
    },
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "hybrid" else pytest.mark.slow) for kind in MODELS]
)
def test_two_equal_one(kind: str, shards: Path, tmp_path: Path) -> None:
    options = {"model": MODELS[kind]}
    process = start(shards, tmp_path / "two", processes=2, **options)
    tiny.train_tiny(shards, tmp_path / "one", {**SETTINGS, **options})
    finish(process)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 12
    assert two == pytest.approx(one, abs=1e-4)
    first, second = (load_model(tmp_path / run / "model").state_dict() for run in ("one", "two"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=2e-4, rtol=1e-3, msg=name)
    assert (tmp_path / "two" / "report.html").is_file()


@pytest.mark.slow
def test_one_goes_on_where_two_were_stopped(shards: Path, tmp_path: Path) -> None:
    finish(start(shards, tmp_path / "straight", processes=1, max_steps=40))
    process = start(shards, tmp_path / "run", processes=2, max_steps=40)
    file = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 60
    while (not file.exists() or len(file.read_text().splitlines()) < 9) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    stopped = len(losses(tmp_path / "run"))
    assert 8 <= stopped < 40
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    finish(start(shards, tmp_path / "run", processes=1, max_steps=40))
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "straight"), abs=1e-3)


def test_compiled_training_stays_in_one_process(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is shared."""
    monkeypatch.setattr("hanok.training.run.join_team", lambda: nullcontext(Team(rank=0, size=2)))
    monkeypatch.setattr(Team, "agree", lambda self, value: value)
    with pytest.raises(ConfigError, match="go in one process"):
        tiny.train_tiny(shards, tmp_path / "run", {**SETTINGS, "compile": True})
    assert not (tmp_path / "run" / "model").exists()
