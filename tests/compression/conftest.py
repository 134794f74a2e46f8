"""A small model directory with a tokeniser of bytes, and a text for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens import Tokenizer

SHAPE = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "head_dim": 16, "intermediate_size": 128}


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (f"The tea house number {n} opens at {n % 12} and costs {n * 37 % 101} won.\n" for n in range(60))
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def small_decoder() -> Callable[..., Decoder]:
    """Of random weights, with the changes that are asked for."""

    def make(**changes: Any) -> Decoder:
        vocabulary = Tokenizer(tokenizer_files(Alphabet.of([]), [])).vocab_size
        config = ModelConfig(**{"vocab_size": vocabulary, "pattern": ("gqa",), **SHAPE, **changes})
        model = Decoder(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, small_decoder: Callable[..., Decoder]) -> Path:
    directory = tmp_path_factory.mktemp("small") / "model"
    directory.mkdir()
    save_model(small_decoder(num_kv_heads=2), directory)
    Tokenizer(tokenizer_files(Alphabet.of([]), [])).save(directory)
    return directory
