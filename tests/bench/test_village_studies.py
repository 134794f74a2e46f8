"""The studies on the harder village, in small: reward models (what is flipped, what is held out), preferences, practice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.bench import practice, preferences, reward_models
from hanok.bench.village_exam import divergence
from hanok.data.village.build import write_village
from hanok.data.village.config import AlignmentDataConfig, VillageConfig
from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder
from hanok.training.align.config import AlignConfig


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("village") / "village"
    return write_village(VillageConfig(arithmetic=50, test_questions=8, validation_questions=4), folder).path


@pytest.fixture(scope="module")
def data(village: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "data"
    return reward_models.write_data(village, out, pairs=60, sizes=(10, 20)).path


def test_a_tenth_is_flipped_and_both_languages_are_there() -> None:
    clean = [{"chosen": i, "rejected": -i} for i in range(1, 201)]
    flipped = reward_models.flipped(clean, 0.1, seed=1)
    assert sum(row["chosen"] < 0 for row in flipped) == 20
    assert [abs(row["chosen"]) for row in flipped] == list(range(1, 201))
    assert flipped == reward_models.flipped(clean, 0.1, seed=1) != reward_models.flipped(clean, 0.1, seed=2)


def test_no_prompt_is_in_two_files(data: Path) -> None:
    files = [rows(data / f"{name}.jsonl") for name in ("train", *reward_models.HELD_OUT)]
    asked = [{json.dumps(row["prompt"]) for row in file} for file in files]
    assert len(files[0]) == 60
    assert {row["language"] for row in files[0]} == {"ko", "en"}
    assert len(asked[1]) == len(files[1]) > 10
    assert len(asked[2]) == len(files[2]) > 20
    assert asked[0].isdisjoint(asked[1] | asked[2])
    assert asked[1].isdisjoint(asked[2])


def test_shares_are_of_pairs_and_of_their_kinds() -> None:
    kinds = [{"kind": kind} for kind in ("fact", "fact", "abstention")]
    found = reward_models.ordered([1.0, 0.0, 0.0, 0.0, 0.0, -1.0], kinds)
    assert {name: (share.right, share.count) for name, share in found.items()} == {
        "all": (2, 3), "fact": (1, 2), "abstention": (1, 1),
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained."""
    folder = tmp_path_factory.mktemp("model")
    shape = tiny.tiny_model(vocab_size=266, max_context=2048)
    save_model(Decoder(shape, generator=torch.Generator().manual_seed(0)), folder, tokenizer_dir=shards)
    return folder


def test_reward_models_are_compared_and_made_once(
    data: Path, village: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(data, target_is_directory=True)
    options: dict[str, Any] = {
        "model": model, "village": village, "folder": tmp_path, "seeds": [1], "held_out": "choosing", "threads": 1,
        "ways": {"likelihood": {"likelihood": True, "max_steps": 1}},
    }  # fmt: skip
    found = reward_models.run(**options)
    assert [row["way"] for row in found] == ["start", "likelihood"]
    assert all(row["all"].endswith(f"of {len(rows(data / 'choosing.jsonl'))}") for row in found)
    file = tmp_path / "likelihood-seed1" / "model" / "reward_head.safetensors"
    written = file.stat().st_mtime_ns
    assert found == reward_models.run(**options)
    assert file.stat().st_mtime_ns == written


def test_methods_practise_the_same_prompts(village: Path, model: Path, shards: Path, tmp_path: Path) -> None:
    small = AlignConfig(
        max_steps=2, prompts_per_step=2, group_size=2, max_new_tokens=4, max_seq_len=512, threads=1
    )
    found = practice.run(
        model=model, shards=shards, village=village, folder=tmp_path, seeds=[1], practice=small,
        ways={name: practice.WAYS[name] for name in ("ppo", "grpo")} | {"control": (practice.REHEARSAL, True, {})},
        data=AlignmentDataConfig(pairs=1, prompts=4, validation=1, questions=2),
    )  # fmt: skip
    assert [(row["way"], row["reward"], row["minus grpo"]) for row in found] == [
        ("ppo", 0, 0),  # also where the way that it is measured against comes last
        ("grpo", 0, 0),
        ("control", None, None),
    ]
    learnt = rows(tmp_path / "control-seed1" / "metrics.jsonl")
    assert sum("loss" in row for row in learnt) == 2
    assert all(row["sums"].startswith("+0.0") for row in found)  # an untrained model adds nothing up
    asked = [
        [group["prompt"] for group in rows(tmp_path / f"{method}-seed1" / "samples.jsonl")]
        for method in ("grpo", "ppo")
    ]
    assert asked[0] == asked[1] != []


def test_preferences_are_learnt_with_and_without_rehearsal_and_once(
    village: Path, model: Path, shards: Path, tmp_path: Path
) -> None:
    small = AlignConfig(max_steps=1, pairs_per_step=4, max_seq_len=512, threads=1, rehearsal_tokens=600)
    options: dict[str, Any] = {
        "model": model, "shards": shards, "village": village, "folder": tmp_path, "seeds": [1], "split": "validation",
        "ways": {"dpo": ("dpo", False, {"rehearsal_tokens": 2048}), "rehearsed": ("dpo", True, {})}, "training": small,
        "data": AlignmentDataConfig(pairs=2, prompts=1, validation=1, questions=4),
    }  # fmt: skip
    found = preferences.run(**options)
    assert [(row["way"], row["missed before"]) for row in found] == [("dpo", 100.0), ("rehearsed", 100.0)]
    logged = {name: rows(tmp_path / f"{name}-seed1" / "metrics.jsonl")[0] for name in options["ways"]}
    assert "rehearsal.loss" in logged["rehearsed"]
    assert "rehearsal.loss" not in logged["dpo"]
    assert logged["rehearsed"]["loss"] == logged["dpo"]["loss"]  # before the first update
    exam = tmp_path / "rehearsed-seed1" / "validation" / "answers.jsonl"
    written = exam.stat().st_mtime_ns
    assert found == preferences.run(**options)
    assert exam.stat().st_mtime_ns == written


def test_the_divergence_is_of_the_answers_that_the_trained_model_writes(
    village: Path, model: Path, shards: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "{n} + {n}"}}\n' for n in range(64)), encoding="utf-8")
    none = divergence(model, model, prompts, longest=8)
    assert (none.nats, none.error) == (0, 0)
    other = tmp_path / "other"
    shape = tiny.tiny_model(vocab_size=266, max_context=2048, initializer_range=0.15)
    save_model(Decoder(shape, generator=torch.Generator().manual_seed(1)), other, tokenizer_dir=shards)
    far = divergence(model, other, prompts, longest=8)
    assert far.nats > 5 * far.error > 0
    assert 1 <= far.tokens <= 8


def test_the_end_is_the_last_fifth() -> None:
    assert practice.at_the_end([{"reward": n} for n in range(10)], "reward") == 8.5
    assert practice.at_the_end([{"reward": 3}, {"loss": 1}], "reward") == 3
    assert practice.at_the_end([{"loss": 1}], "reward") is None
