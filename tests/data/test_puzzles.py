"""Parity and ledgers: right by another way of counting, shares as asked, nothing held out is learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts.shards import open_shards
from hanok.data.puzzles.config import LedgerConfig, ParityConfig
from hanok.data.puzzles.ledger import write_ledger
from hanok.data.puzzles.parity import prefix_parities, write_parity
from hanok.errors import ConfigError
from hanok.tokens.tokenizer import Tokenizer

PARITY = ParityConfig(bits=9, long=0.3, train=2000, prompts=100, validation=40)
LEDGER = LedgerConfig(train=300, fragments=0.0, prompts=60, validation=20)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def conversations(directory: Path, split: str) -> list[tuple[str, str]]:
    """Questions, and what is learnt."""
    tokenizer, part = Tokenizer.load(directory), open_shards(directory).splits[split]
    found = []
    for number in range(part.num_documents):
        ids, mask = part.document(number)
        assert mask is not None
        text = tokenizer.decode(ids, skip_special=False)
        learnt = tokenizer.decode(ids[mask.astype(bool)])
        found.append((text.split("user\n")[1].split("<|im_end|>")[0], learnt))
    return found


def test_prefix_parities() -> None:
    assert prefix_parities("0110") == "0100"
    assert prefix_parities("111") == "101"


def test_parity(tmp_path: Path) -> None:
    made = write_parity(PARITY, tmp_path / "a")
    assert write_parity(PARITY, tmp_path / "b").hash == made.hash
    learnt = conversations(tmp_path / "a", "chat-train")
    for question, said in learnt:
        assert len(question) == 9
        assert said[-1] == str(question.count("1") % 2)
        assert said in (prefix_parities(question), said[-1])
    assert sum(len(said) == 9 for _, said in learnt) / 2000 == pytest.approx(0.3, abs=0.04)
    prompts, held_out = rows(tmp_path / "a/prompts.jsonl"), rows(tmp_path / "a/prompts-validation.jsonl")
    asked = {row["prompt"][0]["content"] for row in held_out}
    assert len(asked) == 40
    assert not asked & {question for question, _ in learnt}
    assert not asked & {row["prompt"][0]["content"] for row in prompts}
    for row in prompts:
        assert row["answer"] == [row["answer"][1][-1], prefix_parities(row["prompt"][0]["content"])]


def test_ledger(tmp_path: Path) -> None:
    write_ledger(LEDGER, tmp_path / "a")
    learnt = conversations(tmp_path / "a", "chat-train")
    for question, said in learnt:
        amounts = {question[i]: int(question[i + 1]) for i in range(0, len(question), 2)}
        steps, total = said.split("\n")
        assert steps[::3] == "".join(sorted(amounts))
        assert steps[1::3] == "".join(str(amounts[letter]) for letter in sorted(amounts))
        assert 3 <= len(amounts) <= 6
        for place, letter in enumerate(sorted(amounts)):
            assert int(steps[3 * place + 2]) == sum(amounts[x] for x in amounts if x <= letter) % 5
        assert total == str(sum(amounts.values()) % 5)
    prompts, held_out = rows(tmp_path / "a/prompts.jsonl"), rows(tmp_path / "a/prompts-validation.jsonl")
    for row in prompts + held_out:
        question = row["prompt"][0]["content"]
        assert 5 <= len(question) // 2 <= 6
        assert row["answer"] == [str(sum(map(int, question[1::2])) % 5)]
    asked = {row["prompt"][0]["content"] for row in held_out}
    assert not asked & {row["prompt"][0]["content"] for row in prompts}


def test_fragments_begin_in_the_middle_and_do_not_learn_where(tmp_path: Path) -> None:
    config = LedgerConfig(train=300, fragments=0.5, prompts=1, validation=1)
    write_ledger(config, tmp_path / "a")
    cut = 0
    for question, learnt in conversations(tmp_path / "a", "chat-train"):
        total = sum(map(int, question[1::2])) % 5
        assert learnt.endswith(f"\n{total}") or str(total).endswith(learnt.strip())
        cut += not learnt.startswith("a")
    assert cut / 300 == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("wrong", [{"bits": 1}, {"long": 1.5}, {"train": 0}, {"bits": 4, "validation": 9}])
def test_no_such_parity(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ParityConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modulus": 11},
        {"train_pages": (5, 3)},
        {"practice_pages": (20, 27)},
        {"train_pages": (1, 4)},
        {"modulus": 2, "practice_pages": (1, 2)},
    ],
)
def test_no_such_ledger(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LedgerConfig(**wrong)
