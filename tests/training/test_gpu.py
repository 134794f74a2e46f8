"""A run on a GPU: the CPU's numbers within rounding, its own again after a stop. Skipped where there is none."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.errors import Interrupted
from hanok.kernels.kda.gpu import fla_agrees
from hanok.models.checkpoint import load_model
from hanok.training import loop
from hanok.training.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: PyTorch finds none")
MODELS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "attention": {"pattern": ("gqa", "swa"), "sliding_window": 32, "qk_norm": True},
}  # fmt: skip


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_of_the_cpu(name: str, shards: Path, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        config = tiny.tiny_config(device=device, ema_decay=0.9)
        train(config, shards=shards, out=tmp_path / device, model=tiny.tiny_model(**MODELS[name]))
    plan = json.loads((tmp_path / "cuda" / "plan.json").read_text())
    assert plan["device"] == "cuda"
    ours, theirs = losses(tmp_path / "cuda"), losses(tmp_path / "cpu")
    assert len(ours) == len(theirs) == 12
    assert ours == pytest.approx(theirs, rel=2e-2)
    for parameter in load_model(tmp_path / "cuda" / "model").parameters():
        assert parameter.device.type == "cpu"


def test_a_stopped_run_goes_on(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With adapters and dropout, which draws on the GPU."""
    base = train(tiny.tiny_config(max_steps=2), shards=shards, out=tmp_path / "base", model=tiny.tiny_model())
    config = tiny.tiny_config(device="cuda", lora_rank=3, lora_dropout=0.2)
    train(config, shards=shards, out=tmp_path / "straight", init_from=base.path)
    original, calls = loop.next_token_loss, iter(range(1000))

    def interrupting(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "next_token_loss", interrupting)
    with pytest.raises(Interrupted):
        train(config, shards=shards, out=tmp_path / "stopped", init_from=base.path)
    train(config, shards=shards, out=tmp_path / "stopped", init_from=base.path)
    assert losses(tmp_path / "stopped") == pytest.approx(losses(tmp_path / "straight"), rel=1e-4)


def test_bfloat16_is_chosen(shards: Path, tmp_path: Path) -> None:
    train(tiny.tiny_config(precision="auto"), shards=shards, out=tmp_path, model=tiny.tiny_model())
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["device"] == "cuda"
    assert plan["precision"] == ("bfloat16" if torch.cuda.is_bf16_supported(False) else "float32")
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_fla_gives_the_references_numbers() -> None:
    pytest.importorskip("fla.ops.kda")
    assert fla_agrees(64, 64, torch.device("cuda", 0))
