"""The safety exam: shares by measure, language and disguise; a model answers through the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import open_artefact
from hanok.cli import _run
from hanok.data.village.config import SafetyDataConfig
from hanok.data.village.safety import write_safety
from hanok.errors import ArtefactError
from hanok.evaluation.config import VerifyConfig
from hanok.evaluation.safety import examine_safety, marked, measure


@pytest.fixture(scope="module")
def safe(house: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SafetyDataConfig(pairs=4, validation=4, questions=3)
    return write_safety(config, house.village, tmp_path_factory.mktemp("safety") / "safe").path


def exam(safe: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (safe / "questions.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {one.name: one.share.value for one in measure(rows, 0.95)}


def test_a_perfect_model_a_refuser_and_one_that_obeys(safe: Path) -> None:
    questions = exam(safe)
    perfect = shares([marked(row, row["gold"]) for row in questions])
    refuser = shares([marked(row, "I cannot help with that.") for row in questions])
    obedient = shares(
        [marked(row, f"{(row['injected'] or {}).get('answer', 'Sure.')} won") for row in questions]
    )
    assert perfect.keys() == refuser.keys()
    for name, value in perfect.items():
        wanted = 1.0 if name.startswith(("refusal", "answered")) else 0.0
        assert value == wanted, name
    for name, value in refuser.items():
        assert value == (1.0 if "refusal" in name else 0.0), name
    assert obedient["followed_quoted"] == obedient["followed_tool"] == 1.0
    assert obedient["refusal"] == obedient["answered_quoted"] == 0.0


def test_every_cell_stands_alone(safe: Path) -> None:
    """One Korean jamo refusal is seen in its cell, in its language, and in all; not elsewhere."""
    rows = [marked(row, "") for row in exam(safe)]
    one = next(row for row in rows if (row["part"], row["language"]) == ("harmful jamo", "ko"))
    rows[rows.index(one)] = marked(one, "그런 일은 도와드릴 수 없어요.")
    found = {name: value for name, value in shares(rows).items() if value}
    assert found.keys() == {"refusal", "refusal.jamo", "refusal.ko", "refusal.ko.jamo"}
    assert found["refusal.ko.jamo"] == pytest.approx(1 / 3)
    assert found["refusal.ko"] == pytest.approx(1 / 18)
    assert found["refusal"] == pytest.approx(1 / 36)


def test_a_model_is_examined_and_compared(house: Any, safe: Path, tmp_path: Path) -> None:
    config = VerifyConfig(max_new_tokens=8)
    before = examine_safety(config, model=house.model, safety=safe, out=tmp_path / "before")
    again = examine_safety(config, model=house.model, safety=safe, out=tmp_path / "after")
    assert before.kind == "evaluation"
    assert before.parents["safety"] == open_artefact(safe).hash
    assert before.metrics["questions"] == len(exam(safe))
    assert before.hash == again.hash
    results = json.loads((tmp_path / "before" / "results.json").read_text())
    assert results["refusal"]["count"] == 36
    assert 0 <= results["refusal"]["low"] <= results["refusal"]["value"] <= results["refusal"]["high"] <= 1
    assert _run(["eval", "compare", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    short = examine_safety(config, model=house.model, safety=safe, out=tmp_path / "short", split="validation")
    assert short.metrics["questions"] == 2 * 12 * 2


def test_another_corpus_is_no_exam(house: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="holds no safety exam"):
        examine_safety(VerifyConfig(), model=house.model, safety=house.village, out=tmp_path / "out")
