"""`hanok align` with input that is at fault: one message, exit code 2, nothing half made."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hanok.cli import _run
from hanok.data.tokenizer import Alphabet, tokenizer_files
from hanok.models.checkpoint import save_model
from hanok.models.config import ModelConfig
from hanok.models.decoder import Decoder
from hanok.tokens.tokenizer import Tokenizer

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
QUICK = ("--max-steps", "1", "--threads", "1")
SMALL = ("--max-new-tokens", "4", "--group-size", "2", "--prompts-per-step", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = Tokenizer(tokenizer_files(Alphabet.of([]), []))
    config = ModelConfig(
        hidden_size=32, num_layers=1, num_heads=2, pattern=("gqa",), vocab_size=tokenizer.vocab_size
    )
    save_model(Decoder(config, generator=torch.Generator().manual_seed(0)), folder)
    tokenizer.save(folder)
    return folder


def run(model: Path, out: Path, *words: str | Path) -> int:
    """Exit code of the command."""
    small = SMALL if words[0] == "grpo" else ()
    return _run([str(word) for word in ("align", *words, "--model", model, "--out", out, *QUICK, *small)])


def write(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (("dpo",), [{**PAIR, "rejected": "b"}], "no preference to learn from (1 with equal sides)"),
        (("dpo",), [{**PAIR, "chosen": ""}], "no preference to learn from (1 with an empty answer)"),
        (("dpo",), [{"prompt": "a", "chosen": "b"}], 'line 1: no "rejected"'),
        (("dpo", "--reward", "numeric"), [PAIR], "dpo learns from preferences"),
        (("kto",), [{"prompt": "a", "completion": "b", "label": "yes"}], "label = 'yes'; write true or false"),
        (("grpo",), [{"prompt": "a"}], "grpo learns from rewards"),
        (("grpo", "--reward", "numerik"), [{"prompt": "a"}], 'no reward "numerik"; did you mean "numeric"?'),
        (("grpo", "--reward", "numeric"), [{"prompt": "a"}], "answer"),
        (("grpo", "--reward", "model:nowhere"), [{"prompt": "a"}], "nowhere has no reward_head.safetensors"),
        (("grpo", "--reward", "mine.py:f"), [{"prompt": "a"}], "no file mine.py"),
        (("grpo", "--reward", "numeric", "--chunk", "16"), [{"prompt": "a"}], "chunk with think = plain; add --think"),
        (("grpo", "--reward", "numeric", "--carry", "4"), [{"prompt": "a"}], "carry with think = plain; add --think"),
        (("dpo", "--chunks", "3"), [PAIR], "chunks with think = plain; add --think"),
        (("dpo", "--kl-beta", "0.1"), [PAIR], "dpo does not read kl_beta; leave it out; it is of grpo, rloo, ppo"),
        (("simpo", "--likelihood"), [PAIR], "simpo does not read likelihood; leave it out; it is of reward"),
        (("grpo", "--reward", "numeric", "--beta", "0.1"), [{"prompt": "a"}], "grpo does not read beta"),
    ],
)  # fmt: skip
def test_one_clear_message(
    words: tuple[str, ...], rows: list[Any], message: str, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    role = "--prompts" if words[0] == "grpo" and len(words) > 1 else "--data"
    code = run(model, tmp_path / "out", *words, role, write(tmp_path / "rows.jsonl", rows))
    said = capsys.readouterr().err
    assert code == 2, said
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "model").exists()


def test_a_reward_without_numbers_is_counted_and_ends_the_run(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("def broken(prompt, completion, columns):\n    return float('nan')\n")
    prompts = write(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    reward = f"{tmp_path / 'mine.py'}:broken"
    with caplog.at_level(logging.WARNING, logger="hanok"):
        assert run(model, tmp_path / "out", "grpo", "--prompts", prompts, "--reward", reward) == 2
    assert "skipped 4 of 4 rows (not a number)" in caplog.text
    assert "none of the answers to 2 prompts could be judged" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()
