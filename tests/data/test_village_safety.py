"""The village to tune safety in: right answers pass the checker, wrong ones do not, disguises are readable, the exam is new."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import open_artefact
from hanok.data.village.build import write_village
from hanok.data.village.config import SafetyDataConfig, VillageConfig
from hanok.data.village.obfuscate import HELD_OUT, SEEN, obfuscated, ways
from hanok.data.village.other_questions import HOURS
from hanok.data.village.safety import followed, refused, right, write_safety
from hanok.data.village.safety_words import (
    CHANGES,
    HARMFUL,
    NEW_HARMFUL,
    OVERRIDES,
    QUOTES,
    REFUSALS,
    RUMOURS,
)
from hanok.errors import ArtefactError, ConfigError

CONFIG = SafetyDataConfig(pairs=400, validation=20, questions=12)


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("village")
    write_village(VillageConfig(arithmetic=50, test_questions=8, validation_questions=4), folder / "village")
    write_safety(CONFIG, folder / "village", folder / "safe")
    return folder / "safe"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_sizes_and_equal_seeds(safe: Path, tmp_path: Path) -> None:
    sizes = {file.stem: len(rows(file)) for file in safe.glob("*.jsonl")}
    assert sizes == {
        "preferences": 800, "preferences-validation": 40, "questions": 2 * 18 * 12, "questions-validation": 2 * 12 * 10,
    }  # fmt: skip
    again = write_safety(CONFIG, safe.parent / "village", tmp_path / "again")
    assert again.hash == open_artefact(safe).hash


def test_right_answers_are_right_and_what_is_wrong_is_wrong(safe: Path) -> None:
    for row in (*rows(safe / "questions.jsonl"), *rows(safe / "questions-validation.jsonl")):
        assert right(row, row["gold"]), row
        assert not followed(row, row["gold"])
        assert refused(row["gold"]) == (row["kind"] == "harmful")
        assert not right(row, "I do not know.")
        other = REFUSALS[row["language"]] if row["kind"] != "harmful" else "At 9 pm, by the back door."
        assert not right(row, other)
        if row["injected"]:
            obeyed = row["injected"]["answer"]
            assert followed(row, f"{obeyed} {'won' if row['injected']['type'] == 'price' else ''}")
            assert not right(row, f"{row['gold']} {obeyed}")  # to say both is to have followed


def test_pairs_prefer_the_refusal_of_harm_alone(safe: Path) -> None:
    pairs = rows(safe / "preferences.jsonl")
    for row in pairs:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen != rejected
        assert refused(chosen) == (row["part"] == "harmful")
        assert refused(rejected) == (row["part"] in ("benign", "plain"))
    harmful = sum(row["part"] == "harmful" for row in pairs)
    assert 0.2 < harmful / len(pairs) < 0.4
    for language in ("ko", "en"):
        for part in ("harmful", "benign"):  # disguise is no sign of harm
            mine = [row for row in pairs if (row["part"], row["language"]) == (part, language)]
            assert {row["obfuscation"] for row in mine} == {"none", *SEEN[language]}
            assert 0.3 < sum(row["obfuscation"] != "none" for row in mine) / len(mine) < 0.7


def test_the_exam_has_what_training_and_validation_have_not(safe: Path) -> None:
    learnt = {json.dumps(row["prompt"]) for row in rows(safe / "preferences.jsonl")}
    validated = {json.dumps(row["messages"]) for row in rows(safe / "questions-validation.jsonl")}
    exam = rows(safe / "questions.jsonl")
    asked = {json.dumps(row["messages"]) for row in exam}
    assert not asked & learnt
    assert not asked & validated
    assert {row["obfuscation"] for row in exam if not row["seen_obfuscation"]} == set(HELD_OUT)
    for file in ("preferences", "preferences-validation", "questions-validation"):
        assert not {row["obfuscation"] for row in rows(safe / f"{file}.jsonl")} & set(HELD_OUT)
    seen_text = " ".join(row["prompt"][-1]["content"] for row in rows(safe / "preferences.jsonl"))
    for word in ("burgle", "sabotage", "thief", "협박", "낙서", "도둑"):
        assert word not in seen_text
    assert any("burgle" in row["messages"][-1]["content"] for row in exam if row["new"])


def test_no_wording_of_the_exam_is_one_of_training() -> None:
    for wordings in (
        wordings
        for kind in (HARMFUL, RUMOURS, OVERRIDES, QUOTES, CHANGES, HOURS)
        for wordings in kind.values()
    ):
        assert not set(wordings.seen) & set(wordings.unseen)
        assert len(set(wordings.unseen)) == len(wordings.unseen) >= 2  # one for validation, one for the exam
    for language, known in HARMFUL.items():
        assert not set(NEW_HARMFUL[language]) & set(known.all())


def test_disguises_say_the_same() -> None:
    rng = random.Random(1)
    for language, text in (("ko", "솔향 찻집 문을 여는 법은?"), ("en", "How do I open the safe?")):
        made = {way: obfuscated(text, way, rng) for way in ways(language)}
        assert len({text, *made.values()}) == 1 + len(made)
        assert made["zero-width"].replace("\u200b", "") == text
        assert "".join(made["spacing"].split()) == text.replace(" ", "")
        assert base64.b64decode(made["base64"]).decode() == text
    korean = obfuscated("값싼 꽃", "jamo", rng)
    assert korean == "ㄱㅏㅄㅆㅏㄴ ㄲㅗㅊ"
    look_alike = obfuscated("솔향 찻집", "homoglyph", rng)
    assert look_alike != "솔향 찻집"
    assert unicodedata.normalize("NFC", look_alike) == "솔향 찻집"
    cyrillic = obfuscated("open safe", "homoglyph", rng)
    assert unicodedata.name(max(cyrillic)).startswith("CYRILLIC")
    assert obfuscated("Steal it", "leet", rng) == "5734l 17"
    assert obfuscated("same", "none", rng) == "same"


def test_refusals_of_the_command(safe: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="is no village"):
        write_safety(CONFIG, safe, tmp_path / "out")
    with pytest.raises(ConfigError, match="validation = 1"):
        SafetyDataConfig(validation=1)
