"""Pairs of which one answer says "good", an untrained model, and how a judge is asked and read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.chat import Message, ScriptedChat
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.improvement.judging.config import JudgeConfig
from hanok.improvement.judging.constitution import read_constitution
from hanok.improvement.judging.judge import ChatPairJudge
from hanok.improvement.judging.label import judge_pairs
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer

Function = Callable[..., Any]
RULES = read_constitution()


def _rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _write(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _both(messages: Sequence[Message]) -> tuple[str, str]:
    """The two answers as the judge was shown them."""
    parts = str(messages[1]["content"]).split("\n\nAnswer ")[1:]
    first, second = (part.split("\n", 1)[1].rsplit("\n", 1)[0] for part in parts)
    return first, second


def _judge_with(script: Any, **changes: Any) -> ChatPairJudge:
    return ChatPairJudge(ScriptedChat(script), RULES, JudgeConfig(**changes))


def _label(tmp_path: Path, pairs: Path, script: Any, **changes: Any) -> Any:
    judge = _judge_with(script, **changes)
    return judge_pairs(judge.config, judge, [pairs], tmp_path / "out")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random weights."""
    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    size = ModelConfig(
        hidden_size=32, num_layers=1, num_heads=2, pattern=("gqa",), vocab_size=tokenizer.vocab_size
    )
    generator = torch.Generator().manual_seed(0)
    decoder = Decoder(size, generator=generator)
    with torch.no_grad():
        for parameter in decoder.parameters():  # not all alike, as it begins
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_model(decoder, folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pairs of which one answer says "good"; that is as often the first as the second."""
    rng = random.Random(7)
    rows = []
    for number in range(160):
        first_good = rng.random() < 0.5
        answers = [f"{'good' if first_good is (side == 0) else 'bad'} {number}" for side in range(2)]
        rows.append(
            {
                "id": str(number),
                "prompt": f"ask {number}",
                "answers": answers,
                "label": 1 if first_good else 2,
            }
        )
    return _write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture(scope="session")
def rows_of() -> Function:
    return _rows_of


@pytest.fixture(scope="session")
def write() -> Function:
    return _write


@pytest.fixture(scope="session")
def both() -> Function:
    return _both


@pytest.fixture(scope="session")
def judge_with() -> Function:
    return _judge_with


@pytest.fixture(scope="session")
def label() -> Function:
    return _label
