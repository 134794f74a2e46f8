"""A model from somewhere else is taught documents by a recipe: what fits, what was learnt, what was forgotten."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hanok.cli import main
from hanok.models.checkpoint import load_model
from hanok.tokens import Tokenizer

KOREAN = ("마을", "한옥", "마루", "온돌", "대문", "마당", "찻집", "서당", "우물", "장독대", "골목", "기와")
ENGLISH = ("the", "of", "and", "to", "village", "house", "floor", "gate", "yard", "school", "well", "tile")
MODEL = """
[model]
family = "llama"
hidden_size = 32
num_layers = 2
pattern = ["gqa"]
num_heads = 2
max_context = 256
"""
SHORT = """
tokens_per_step = 2048
micro_batch_tokens = 2048
max_seq_len = 256
"""


def documents(folder: Path, words: tuple[str, ...], seed: int) -> None:
    folder.mkdir()
    draw = random.Random(seed)
    for number in range(60):
        sentences = (" ".join(draw.choices(words, k=9)) + "." for _ in range(8))
        (folder / f"{number:02}.txt").write_text("\n".join(sentences), encoding="utf-8")


def hanok(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code == code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run "english": a model that has read no Korean."""
    place = tmp_path_factory.mktemp("adapt")
    documents(place / "english", ENGLISH, 1)
    documents(place / "korean", KOREAN, 2)
    (place / "english.toml").write_text(
        f'[[collect.sources]]\npath = "{place}/english"\n[split]\nvalidation = 0.1\ntest = 0.1\n'
        f'[tokenizer]\nvocab_size = 300\n{MODEL}[pretrain]\nmax_steps = 20\n{SHORT}'
        '[verify]\nmax_new_tokens = 8\n'
    )  # fmt: skip
    (place / "adapt.toml").write_text(
        f'[base]\npath = "{place}/runs/english/model"\n[base.extend]\ntokens = 60\nmin_frequency = 5\n'
        f'[[collect.sources]]\npath = "{place}/korean"\n[[replay.sources]]\npath = "{place}/english"\n'
        "[split]\nvalidation = 0.1\ntest = 0.1\n[pretrain]\nmax_steps = 12\n"
        f'mixture = {{ "text-train" = 0.6, "text-replay-train" = 0.4 }}\n{SHORT}'
        f'[sft]\nmax_steps = 3\nlora_rank = 2\nmixture = {{ "text-train" = 1.0 }}\n{SHORT}'
        "[verify]\nmax_new_tokens = 8\n"
    )  # fmt: skip
    hanok("run", str(place / "english.toml"), "--directory", str(place / "runs"))
    return place


def test_before_and_after(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hanok("run", str(runs / "adapt.toml"), "--directory", str(runs / "runs"), "--json")
    result = json.loads(capsys.readouterr().out)
    run = runs / "runs" / "adapt"
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert list(stages) == [
        "collect", "clean", "split", "replay", "replay-clean", "replay-split", "base", "shards", "before-shards",
        "before", "pretrain", "sft", "verify",
    ]  # fmt: skip
    assert stages["base"]["metrics"]["new_tokens"] > 20
    before = stages["before"]["metrics"]
    assert result["bits_per_byte.text"] < 0.7 * before["bits_per_byte.text"]
    expected = result["bits_per_byte.text-replay"] / before["bits_per_byte.text-replay"] - 1
    assert result["forgetting"] == pytest.approx(expected)
    page = json.loads((run / "report.json").read_text(encoding="utf-8"))
    rows = page["Before and after"]
    assert [row["bits per byte of"] for row in rows] == ["the documents, held out", "general text, held out"]
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "general text, held out" in card
    old, new = Tokenizer.load(runs / "runs" / "english" / "model"), Tokenizer.load(run / "model")
    text = "마을 한옥 마루"
    assert len(new.encode(text)) < 0.6 * len(old.encode(text))
    assert load_model(run / "model").config.vocab_size == new.vocab_size


def test_a_tokeniser_that_gains_too_little_stays(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = ["--set", "base.least_gain=50", "--set", "sft=none", "--set", "name=short"]
    hanok("run", str(runs / "adapt.toml"), "--directory", str(runs / "runs"), *settings)
    assert "the tokeniser stays as it is" in caplog.text
    run = runs / "runs" / "short"
    assert Tokenizer.load(run / "model").hash == Tokenizer.load(runs / "runs" / "english" / "model").hash


@pytest.mark.parametrize(("setting", "what"), [
    ("base.path=nowhere", "no model directory at nowhere"), ("model.hidden_size=64", "leave [model] and"),
    ("base.least_gain=0.5", "at least 1"),
])  # fmt: skip
def test_bad_settings(runs: Path, setting: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    hanok(
        "run", str(runs / "adapt.toml"), "--directory", str(runs / "runs"), "--set", setting, code=2
    )  # fmt: skip
    assert what in " ".join(capsys.readouterr().err.split())
