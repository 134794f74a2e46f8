"""A tiny model directory with a tokeniser, and files of preferences and prompts about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder

WORDS = ("기와", "마루", "온돌", "대문", "마당", "roof", "floor", "stove", "gate", "yard")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="session")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, of two layers."""
    directory = tmp_path_factory.mktemp("base") / "model"
    config = tiny.tiny_model(vocab_size=266)
    decoder = Decoder(config, generator=torch.Generator().manual_seed(0))
    directory.mkdir()
    save_model(decoder, directory, tokenizer_dir=shards)
    return directory


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, list[Any]], Path]:
    def write(file: Path, rows: list[Any]) -> Path:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def preference_rows() -> list[dict[str, Any]]:
    """The short answer is the better one."""
    return [
        {
            "id": f"row-{i}", "prompt": user(f"{word} {i}?"), "chosen": assistant(word[:2]),
            "rejected": assistant(f"{word} {WORDS[i % 7]} {word}"),
        }
        for i, word in enumerate(WORDS * 4)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def preferences(
    tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[[Path, list[Any]], Path], preference_rows: list[Any]
) -> Path:  # fmt: skip
    return write_rows(tmp_path_factory.mktemp("rows") / "preferences.jsonl", preference_rows)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[[Path, list[Any]], Path]) -> Path:
    rows = [{"id": f"prompt-{i}", "prompt": user(word), "answer": str(i)} for i, word in enumerate(WORDS)]
    return write_rows(tmp_path_factory.mktemp("rows") / "prompts.jsonl", rows)
