"""A whole recipe at the smallest size that still goes through every step, by the command that a user types."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from hanok.cli import main
from hanok.engine.api import Request, SamplingParams
from hanok.engine.generator import LocalEngine
from hanok.recipes.runs import servable_model

RECIPE = """
description = "A village in a thimble."
seed = 3
[village]
places = 10
documents_per_place = 2
arithmetic = 60
comparisons = 40
abstentions = 40
follow_ups = 20
tool_calls = 20
small_talk = 10
letters = 4
test_questions = 6
validation_questions = 2
[tokenizer]
vocab_size = 1400
[model]
hidden_size = 32
num_layers = 2
pattern = ["kda", "mla"]
num_heads = 2
kv_lora_rank = 16
max_context = 512
[pretrain]
max_steps = 6
tokens_per_step = 2048
micro_batch_tokens = 2048
max_seq_len = 512
mixture = { "text-train" = 0.5, "chat-train" = 0.5 }
[sft]
max_steps = 3
tokens_per_step = 2048
micro_batch_tokens = 2048
max_seq_len = 512
mixture = { "chat-train" = 1.0 }
[verify]
questions = 24
max_new_tokens = 8
bits_tokens = 4000
"""


def hanok(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code == 0


def test_every_step_once_and_then_in_an_instant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "thimble.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    hanok("run", str(recipe), "--directory", str(tmp_path / "runs"), "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["village.questions"] == 24
    run = tmp_path / "runs" / "thimble"
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert list(stages) == ["village", "clean", "split", "tokenizer", "shards", "pretrain", "sft", "verify"]
    assert {stage["state"] for stage in stages.values()} == {"done"}

    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    for part in (
        'license: "apache-2.0"',
        'language: ["en", "ko"]',
        "# thimble",
        "hanok-village",
        "24 held-out questions",
    ):
        assert part in card
    assert "A village in a thimble." in (run / "report.html").read_text(encoding="utf-8")
    with closing(LocalEngine(servable_model(run))) as engine:
        prompt = engine.tokenizer.encode_chat(
            [{"role": "user", "content": "안녕?"}], add_generation_prompt=True
        ).ids
        params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
        assert len(engine.generate([Request(id="a", prompt_ids=prompt, params=params)])[0].ids) == 4

    before = {name: stage["hash"] for name, stage in stages.items()}
    started = time.perf_counter()
    hanok("run", str(recipe), "--directory", str(tmp_path / "runs"), "--json")
    assert time.perf_counter() - started < 10
    again = json.loads((run / "run.json").read_text())["stages"]
    assert {name: stage["hash"] for name, stage in again.items()} == before

    capsys.readouterr()
    hanok("runs", "list", "--directory", str(tmp_path / "runs"), "--json")
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["run"], row["state"], row["improvements"]) for row in rows] == [("thimble", "done", "none")]
