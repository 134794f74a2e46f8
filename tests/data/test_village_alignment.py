"""The harder village: right answers are right by the checker, wrong ones wrong, and the exam shares nothing with training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import open_artefact
from hanok.data.village.alignment import write_alignment
from hanok.data.village.build import write_village
from hanok.data.village.check import abstained, check
from hanok.data.village.config import AlignmentDataConfig, VillageConfig
from hanok.errors import ArtefactError, ConfigError

CONFIG = AlignmentDataConfig(pairs=150, prompts=80, validation=20, questions=80)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("village")
    write_village(VillageConfig(arithmetic=50, test_questions=8, validation_questions=4), folder / "village")
    write_alignment(CONFIG, folder / "village", folder / "hard")
    return folder / "hard"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_sizes_and_equal_seeds(hard: Path, tmp_path: Path) -> None:
    sizes = {file.stem: len(rows(file)) for file in hard.glob("*.jsonl")}
    assert sizes == {
        "preferences": 300, "preferences-validation": 40, "prompts": 160, "prompts-validation": 40, "questions": 480,
        "questions-validation": sizes["questions-validation"],
    }  # fmt: skip
    again = write_alignment(CONFIG, hard.parent / "village", tmp_path / "again")
    assert again.hash == open_artefact(hard).hash


def test_gold_answers_pass_the_checker(hard: Path) -> None:
    for row in rows(hard / "questions.jsonl"):
        assert check(row, row["gold"]), row


def test_chosen_and_rejected_differ_in_what_counts(hard: Path) -> None:
    pairs = rows(hard / "preferences.jsonl")
    declined = 0
    for row in pairs:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen != rejected
        assert abstained(chosen) == (row["kind"] == "abstention")
        if row["kind"] == "abstention":
            assert not abstained(rejected)
        declined += abstained(chosen)
    assert 0.3 < declined / len(pairs) < 0.5  # the others are controls


def test_the_exam_shares_no_question_sum_or_unknown_name(hard: Path) -> None:
    exam = rows(hard / "questions.jsonl")
    learnt = [*rows(hard / "preferences.jsonl"), *rows(hard / "prompts.jsonl")]
    learnt += [*rows(hard / "preferences-validation.jsonl"), *rows(hard / "prompts-validation.jsonl")]
    sums = {row["messages"][-1]["content"] for row in exam if row["part"] == "sum"}
    assert not sums & {row["prompt"][-1]["content"] for row in learnt}
    worked = {row["gold"].split(":")[0] for row in exam if row["part"] == "sum"}
    prompts = " ".join(row["prompt"][-1]["content"] for row in learnt if row["kind"] == "arithmetic")
    assert not [expression for expression in worked if expression in prompts]
    names = {row["gold"] for row in exam if row["kind"] == "abstention"}
    assert not names & {row["chosen"][0]["content"] for row in learnt if row["kind"] == "abstention"}


def test_what_settings_are_chosen_by_is_not_the_exam(hard: Path) -> None:
    exam, choosing = rows(hard / "questions.jsonl"), rows(hard / "questions-validation.jsonl")
    assert 200 < len(choosing) <= 240
    assert not {json.dumps(row["messages"]) for row in exam} & {
        json.dumps(row["messages"]) for row in choosing
    }
    assert {row["part"] for row in exam} == {row["part"] for row in choosing}
    assert {row["pair"] for row in choosing if row["part"] == "fact"} == {"trained", "documents-only"}
    for kind in (
        "abstention",
        "arithmetic",
    ):  # names and sums: nothing in common with what is asked or learnt
        gold = {row["gold"] for row in choosing if row["kind"] == kind}
        assert gold
        assert not gold & {row["gold"] for row in exam if row["kind"] == kind}
        learnt = [row for row in rows(hard / "preferences.jsonl") if row["kind"] == kind]
        assert not gold & {row["chosen"][0]["content"] for row in learnt}


def test_sums_have_the_asked_digits(hard: Path) -> None:
    for row in rows(hard / "prompts.jsonl"):
        numbers = [
            int(word)
            for word in "".join(c if c.isdigit() else " " for c in row["prompt"][-1]["content"]).split()
        ]
        assert max(numbers) >= 1000
        assert row["answer"].isdigit()


def test_refusals(hard: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="is no village"):
        write_alignment(CONFIG, hard, tmp_path / "out")
    with pytest.raises(ConfigError, match="pairs = 0"):
        AlignmentDataConfig(pairs=0)
