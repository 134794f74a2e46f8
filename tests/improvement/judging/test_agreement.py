"""Agreement: kappa and position bias against textbooks, yardsticks and models as judges."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from hanok.artefacts import open_artefact
from hanok.engine.generator import LocalEngine
from hanok.engine.text import chat_prompt
from hanok.errors import ConfigError
from hanok.evaluation.agreement import cohen_kappa
from hanok.improvement.judging.agreement import position_bias
from hanok.improvement.judging.config import JudgeConfig
from hanok.improvement.judging.label import judge_pairs
from hanok.improvement.judging.scores import score_judge

Function = Callable[..., Any]


def test_kappa() -> None:
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohen_kappa(one, other)
    assert found.value == pytest.approx(0.4)  # a textbook's table: p_o 0.7, p_e 0.5
    error = math.sqrt(0.7 * 0.3 / (50 * 0.5**2))  # Cohen 1960, equation 7
    assert found.low == pytest.approx(0.4 - 1.96 * error, abs=0.05)
    assert found.high == pytest.approx(0.4 + 1.96 * error, abs=0.05)
    assert cohen_kappa(one, one).value == 1.0
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]).value)
    rng = random.Random(1)
    chance = cohen_kappa([rng.randrange(3) for _ in range(3000)], [rng.randrange(3) for _ in range(3000)])
    assert chance.low < 0 < chance.high
    assert abs(chance.value) < 0.03


def test_position_bias() -> None:
    fair = position_bias([(1.0, 0.0)] * 30 + [(0.0, 1.0)] * 30 + [(1.0, 1.0)] * 5 + [(0.0, 0.0)] * 5)
    assert fair.first.value == 0.5
    assert fair.p_value == 1.0
    assert fair.consistent.value == pytest.approx(60 / 70)
    swayed = position_bias([(1.0, 1.0)] * 20 + [(0.0, 0.0)] * 2 + [(0.5, 1.0)])
    assert swayed.p_value == pytest.approx(binomtest(20, 22).pvalue)
    many = position_bias([(1.0, 1.0)] * 1600 + [(0.0, 0.0)] * 1500)
    assert many.p_value == pytest.approx(binomtest(1600, 3100).pvalue, rel=0.01)


@pytest.mark.data
def test_yardsticks_on_llmbar(tmp_path: Path, shared_data: Path) -> None:
    """Adversarial pairs were made to defeat who goes by length."""
    files = sorted((shared_data / "llmbar").glob("*.json"))
    for word in ("longer", "overlap"):
        made = judge_pairs(JudgeConfig(), score_judge(word), files, tmp_path / word)
        metrics = made.metrics
        assert metrics["people.pairs"] == 336
        assert metrics["consistent"] == 1.0
    rows = json.loads((shared_data / "llmbar" / "Natural.json").read_text())
    right = sum((len(row["output_1"]) > len(row["output_2"])) == (row["label"] == 1)
                for row in rows if len(row["output_1"]) != len(row["output_2"]))  # fmt: skip
    natural = open_artefact(tmp_path / "longer").metrics
    assert natural["people.Adversarial_Neighbor.accuracy.high"] < 0.5
    assert natural["people.Natural.accuracy"] == right / natural["people.Natural.decided"]


def test_judges_that_are_models(rows_of: Function, write: Function, tmp_path: Path, model: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", [{"prompt": "ask", "answers": ["one thing", "other"], "label": 1}])
    engine = LocalEngine(model)
    means: dict[str, list[float]] = {"likelihood": [], "pmi": []}
    for answer in ("one thing", "other"):
        behind = engine.tokenizer.encode(answer)
        given, alone = (
            sum(engine.score([*prompt, *behind])[-len(behind) :]) / len(behind)
            for prompt in (
                chat_prompt(engine.tokenizer, [{"role": "user", "content": text}]) for text in ("ask", "")
            )
        )
        means["likelihood"].append(given)
        means["pmi"].append(given - alone)
    engine.close()
    for kind, (one, other) in means.items():
        made = judge_pairs(JudgeConfig(), score_judge(f"{kind}:{model}"), [data], tmp_path / kind)
        judged = rows_of(made.path / "judgements.jsonl")[0]
        assert judged["verdict"] == ("first" if one > other else "second")
        assert [float(word) for word in judged["reasons"][0].split(" against ")] == pytest.approx(
            [one, other], abs=1e-4
        )
    with pytest.raises(ConfigError, match="did you mean"):
        score_judge("longr")
