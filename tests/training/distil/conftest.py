"""A tiny teacher with weights that say something, and settings of a run of seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder
from hanok.training.distil.config import DistilConfig


@pytest.fixture(scope="session")
def teacher(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, of four layers, with a peaked law."""
    directory = tmp_path_factory.mktemp("teacher") / "model"
    config = tiny.tiny_model(vocab_size=266, num_layers=4, hidden_size=64, head_dim=32)
    decoder = Decoder(config, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        decoder.norm.weight.mul_(4)
    save_model(decoder, directory, tokenizer_dir=shards)
    return directory


@pytest.fixture(scope="session")
def quick() -> Callable[..., DistilConfig]:
    def config(**changes: Any) -> DistilConfig:
        settings: dict[str, Any] = {
            "max_steps": 4, "max_new_tokens": 8, "answers": 24, "top_k": 16, "tokens_per_step": 256,
            "micro_batch_tokens": 160, "max_seq_len": 128, "threads": 1, "warmup_steps": 0, "validation_tokens": 256,
            "muon_lr": 3e-3, "adamw_lr": 3e-3, "decay_fraction": 0.0, "validate_every": 100, "checkpoint_every": 100,
            "mixture": {"chat-train": 0.6, "text-train": 0.4},
        }  # fmt: skip
        return DistilConfig(**{**settings, **changes})

    return config
