"""Alignment as steps of a recipe: one upon the other, each done once, compared before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import open_artefact
from hanok.cli import main
from hanok.errors import ConfigError
from hanok.recipes.load import find_recipe
from hanok.recipes.pipeline import recipe_stages
from hanok.recipes.recipe import load_recipe
from hanok.recipes.runs import servable_model

RECIPE = """
[village]
places = 10
documents_per_place = 1
arithmetic = 30
comparisons = 20
abstentions = 20
follow_ups = 10
tool_calls = 4
small_talk = 4
letters = 2
test_questions = 2
validation_questions = 1
[tokenizer]
vocab_size = 1400
[model]
hidden_size = 32
num_layers = 1
pattern = ["gqa"]
num_heads = 2
max_context = 1024
[pretrain]
max_steps = 2
tokens_per_step = 2048
micro_batch_tokens = 2048
max_seq_len = 512
[village_alignment]
pairs = 8
prompts = 6
validation = 2
questions = 4
[[align]]
method = "dpo"
data = "village"
rehearsal = true
config = { max_steps = 2, pairs_per_step = 4, muon_lr = 1e-3, rehearsal_tokens = 512 }
[[align]]
method = "reward"
name = "judge"
data = "village"
config = { max_steps = 1, pairs_per_step = 4 }
[[align]]
method = "grpo"
prompts = "village"
reward = ["model:judge=0.5", "format"]
config = { max_steps = 2, prompts_per_step = 2, group_size = 2, max_new_tokens = 4, max_seq_len = 256 }
[verify]
questions = 6
max_new_tokens = 4
bits_tokens = 1000
"""
STAGES = [
    "village", "clean", "split", "tokenizer", "shards", "pretrain", "village-alignment", "unaligned", "align-dpo",
    "align-judge", "align-grpo", "aligned", "verify",
]  # fmt: skip


def hanok(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code == 0


def stages_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())["stages"]


def test_steps_build_upon_each_other(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    words = ("run", str(recipe), "--directory", str(tmp_path))
    hanok(*words)
    run = tmp_path / "small"
    stages = stages_of(run)
    assert list(stages) == STAGES
    assert servable_model(run).resolve() == (run / "align-grpo" / "model").resolve()
    hashes = {name: stage["hash"] for name, stage in stages.items()}
    parents = {name: open_artefact(run / stages[name]["artefact"]).parents for name in STAGES[5:]}
    assert parents["align-dpo"]["model"] == hashes["pretrain"]
    assert parents["align-dpo"]["rehearsal"] == hashes["shards"]
    assert "rehearsal" not in parents["align-grpo"]
    assert parents["align-judge"]["model"] == parents["align-grpo"]["model"] == hashes["align-dpo"]
    assert parents["unaligned"]["model"] == hashes["pretrain"]
    assert parents["aligned"]["model"] == parents["verify"]["model"] == hashes["align-grpo"]
    assert (run / "align-judge" / "model" / "reward_head.safetensors").is_file()
    assert open_artefact(run / "aligned").metrics["village.questions"] == 24
    assert open_artefact(run / "verify").metrics["village.questions"] == 6
    assert "Before and after alignment" in (run / "report.html").read_text(encoding="utf-8")
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "Right answers before and after alignment" in card
    assert "| align-grpo |" in card

    hanok(*words, "--set", "align.2.config.max_steps=1")
    again = {name: stage["hash"] for name, stage in stages_of(run).items()}
    assert {name for name in STAGES if again[name] != hashes[name]} == {"align-grpo", "aligned", "verify"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("align.0.reward=['numeric']", "dpo learns from preferences"),
        ("align.2.prompts=", "grpo learns from rewards"),
        ("align.0.method=dpoo", "expected one of"),
        ("align.1.name=dpo", 'two align steps named "dpo"'),
        ("align.2.reward=['model:jugde']", 'did you mean "judge"'),
        ("align.0.validation=mine.jsonl", "beside the village's own"),
        ("align.0.config.chunk=16", "chunk with think = plain"),
        ("align.2.config.rehearsal_chats=0.5", "rehearsal_chats without rehearsal"),
        ("align.2.config.overlapp=1", 'did you mean "overlap"'),
    ],
)
def test_steps_that_make_no_sense(change: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_recipe(str(recipe), settings=[change])
    assert message in f"{refused.value.message} {refused.value.remedy}"


def test_village_data_want_their_section(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    before, _, after = RECIPE.partition("[village_alignment]")
    recipe.write_text(f"{before}{after[after.index('[[align]]') :]}", encoding="utf-8")
    with pytest.raises(ConfigError, match='data = "village"'):
        load_recipe(str(recipe))


def test_shipped_recipes_are_named_in_the_help_and_can_be_planned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    library = sorted(find_recipe("align").parent.glob("*.toml"))
    hanok("run", "--help")
    shown = capsys.readouterr().out
    for file in library:
        assert f"* {file.stem}:" in shown
    names = [stage.name for stage in recipe_stages(load_recipe("align"), tmp_path)]
    assert names[-6:] == ["village-alignment", "unaligned", "align-dpo", "align-grpo", "aligned", "verify"]
