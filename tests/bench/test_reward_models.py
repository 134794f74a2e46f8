"""The study of reward models: what is flipped, what is held out, and that it runs through in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from hanok.bench import reward_models
from hanok.data.village.build import write_village
from hanok.data.village.config import VillageConfig
from hanok.models.checkpoint import save_model
from hanok.models.decoder import Decoder


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


def test_it_runs_through_and_goes_on(data: Path, village: Path, shards: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shape = tiny.tiny_model(vocab_size=266, max_context=2048)
    save_model(Decoder(shape, generator=torch.Generator().manual_seed(0)), model, tokenizer_dir=shards)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "data").symlink_to(data, target_is_directory=True)
    options: dict[str, Any] = {
        "model": model, "village": village, "folder": tmp_path / "study", "seeds": [1], "held_out": "choosing", "threads": 1,
        "ways": {"likelihood": {"likelihood": True, "max_steps": 1}},
    }  # fmt: skip
    found = reward_models.run(**options)
    assert [row["way"] for row in found] == ["start", "likelihood"]
    assert all(row["all"].endswith(f"of {len(rows(data / 'choosing.jsonl'))}") for row in found)
    assert found == reward_models.run(**options)
