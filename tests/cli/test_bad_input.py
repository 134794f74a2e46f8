"""What users get wrong: one clear message that says what, where and how to mend it, exit code 2, and no trace of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hanok.data.config_tokens import ShardsConfig, SplitConfig, TokenizerConfig
from hanok.data.shards import write_shards
from hanok.data.split import split
from hanok.data.tokenizer import train_tokenizer
from hanok.data.village.build import write_village
from hanok.data.village.config import VillageConfig

SMALL = VillageConfig(
    places=10, documents_per_place=2, asks_per_fact=1, arithmetic=20, abstentions=10, comparisons=10, follow_ups=10,
    tool_calls=5, small_talk=5, letters=5, test_questions=4, validation_questions=4,
)  # fmt: skip
MODEL = ("model-config", "--hidden-size", "32", "--num-layers", "1", "--num-heads", "2", "--pattern", "gqa")


def refused(*words: str | Path, text: str | None = None) -> str:
    """The message of a command that must fail with code 2."""
    command = [sys.executable, "-m", "hanok", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, input=text, timeout=120, check=False)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small village as far as shards, and a second tokeniser."""
    folder = tmp_path_factory.mktemp("house")
    write_village(SMALL, folder / "village")
    split(SplitConfig(decontaminate=False), folder / "village", folder / "split")
    train_tokenizer(TokenizerConfig(vocab_size=900), folder / "split", folder / "tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=800), folder / "split", folder / "other")
    write_shards(ShardsConfig(), folder / "split", folder / "tokenizer", folder / "shards")
    write_shards(ShardsConfig(), folder / "split", folder / "other", folder / "other-shards")
    return folder


def test_unreadable_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 but no more")
    message = refused("data", "collect", tmp_path / "a.pdf", "--out", tmp_path / "out")
    assert "a.pdf is no readable PDF" in message
    assert not (tmp_path / "out").exists()


def test_wrong_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("한옥 마을의 아침".encode("cp949"))
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[[collect.sources]]\npath = "{tmp_path}/a.txt"\nencoding = "utf-8"\n')
    message = refused("run", recipe, "--directory", tmp_path / "runs")
    assert "a.txt is not utf-8: byte 0x" in message
    assert "cp949" in message


def test_misspelt_key(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[village]\nplaces = 10\n[pretrain]\nmax_minuets = 3\n")
    message = refused("run", tmp_path / "r.toml", "--directory", tmp_path / "runs")
    assert "max_minuets" in message
    assert "max_minutes" in message


def test_unknown_recipe() -> None:
    assert "quickstart" in refused("run", "quickstrat")


def test_vocabulary_larger_than_the_data_allows(house: Path, tmp_path: Path) -> None:
    message = refused("data", "tokenizer", house / "split", "--out", tmp_path / "t", "--vocab-size", "60000")
    assert "60000" in message.replace(",", "")
    assert not (tmp_path / "t").exists()


def test_shards_of_another_tokeniser(house: Path, tmp_path: Path) -> None:
    train = ("train", "--max-steps", "1", "--max-seq-len", "256")
    done = subprocess.run(
        [sys.executable, "-m", "hanok", *train, "--shards", str(house / "shards"), "--out", str(tmp_path / "a"), *MODEL],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = next(
        path for path in (tmp_path / "a").rglob("config.json") if "checkpoints" not in path.parts
    ).parent
    message = refused(
        *train, "--shards", house / "other-shards", "--out", tmp_path / "b", "--init-from", model
    )
    assert "tokeniser" in message
    chat = refused("chat", model, text="가나다 " * 3000 + "\n")
    assert "2048" in chat.replace(",", "")


def test_context_longer_than_the_model(house: Path, tmp_path: Path) -> None:
    words = ("train", "--shards", house / "shards", "--out", tmp_path / "m", *MODEL)
    message = refused(*words, "--model.max-context", "128", "--max-seq-len", "512", "--max-steps", "1")
    assert "512" in message
    assert "128" in message
