"""Kinds of harm: trained from a few rows of this file, by category; folds over groups; one verdict at every cut of an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanok.cli import _run
from hanok.errors import ConfigError, InputError
from hanok.guard.grams import BITS
from hanok.guard.harm import HarmClassifier
from hanok.guard.harm_training import (
    HarmRow,
    auc,
    categories_of,
    cross_validate_harm,
    fit_harm,
    read_harm_rows,
    recalls,
    thresholds_for,
)  # fmt: skip
from hanok.guard.linear import LinearDetector
from hanok.guard.policy import parse_policy
from hanok.guard.provenance import Part
from hanok.guard.rulebook import Guard, Rulebook

WHO = ["그 사람들", "옆집 사람", "저 팀", "the neighbours", "those people", "that team"]
WORDS = {
    "scorn": ["{}은 정말 한심하고 쓸모없다", "{}은 바보 같아서 말이 안 통한다",
              "{} are hopeless idiots", "{} are worthless, all of them"],
    "threat": ["{}을 가만두지 않고 때려 주겠다", "{}은 곧 다치게 될 것이다", "I will beat up {}", "{} will get hurt, I promise"],
    "": ["{}은 어제 공원에서 산책을 했다", "{}과 점심을 먹고 차를 마셨다",
         "{} went for a walk in the park", "I had lunch with {}"],
}  # fmt: skip
ROWS = [
    HarmRow(wording.format(who), frozenset({kind} if kind else ()), group=who)
    for kind, wordings in WORDS.items()
    for wording in wordings
    for who in WHO
]
KINDS = ("scorn", "threat")


@pytest.fixture(scope="module")
def trained() -> HarmClassifier:
    return fit_harm(ROWS, KINDS)


@pytest.fixture
def folder(trained: HarmClassifier, tmp_path: Path) -> Path:
    trained.save(tmp_path / "harm.safetensors")
    return tmp_path


def book(folder: Path, more: str = "") -> Rulebook:
    return Guard(
        parse_policy(f'format = 1\n[rules.harm]\nfile = "harm.safetensors"\n{more}', folder=folder)
    ).of("t")


def run(rules: Rulebook, parts: Any) -> tuple[str, list[tuple[int, int, str, str]], bool]:
    one = rules.watch()()
    released = [one.push(part) for part in parts] + [one.finish()]
    found = [(each.start, each.end, each.action, each.reason) for part in released for each in part.findings]
    return "".join(part.text for part in released), found, released[-1].blocked


def test_groups_that_it_has_not_seen() -> None:
    judged = list(cross_validate_harm(ROWS, KINDS, folds=3))
    assert {id(one.row) for one in judged} == {id(row) for row in ROWS}
    lines = recalls(judged, KINDS, thresholds_for(judged, KINDS, 0.05))
    assert [line["category"] for line in lines] == list(KINDS)
    assert all(
        line["recall"] >= 0.9 and line["false_alarms"] <= 0.05 and line["auc"] > 0.97 for line in lines
    ), lines
    mixed = [
        HarmRow(row.text, ROWS[(7 * number) % len(ROWS)].categories, row.group)
        for number, row in enumerate(ROWS)
    ]
    control = recalls(list(cross_validate_harm(mixed, KINDS, folds=2)), KINDS, np.zeros(2))
    assert all(line["auc"] < 0.9 for line in control)  # labels that mean nothing teach nothing


def test_rows_teach_what_was_looked_for_in_them() -> None:
    rows = [
        HarmRow(row.text, row.categories & {"scorn"}, row.group, frozenset({"scorn"})) for row in ROWS[::2]
    ]
    rows += [
        HarmRow(row.text, row.categories & {"threat"}, row.group, frozenset({"threat"})) for row in ROWS[1::2]
    ]
    assert rows[0].label("threat") is None
    classifier = fit_harm(rows, KINDS)
    lines = recalls(list(cross_validate_harm(rows, KINDS, folds=3)), KINDS, np.zeros(2))
    assert sum(line["rows"] + line["others"] for line in lines) == len(rows)
    assert classifier.judge("those people are hopeless idiots")[0] > classifier.judge("tea in the park")[0]


def test_disguises_change_little(trained: HarmClassifier) -> None:
    plain, other = "저 팀은 정말 한심하고 쓸모없다", "저 팀과 점심을 먹고 차를 마셨다"
    for hidden in (
        "저 팀은 정\u200b말 한\u200b심하고 쓸모없다",
        "저 팀은 정말 ㅎㅏㄴㅅㅣㅁ하고 쓸모없다",
        "저 팀은 정말 한.심.하고 쓸모없다",
    ):
        assert trained.judge(hidden)[0] > trained.thresholds[0] > trained.judge(other)[0]
    assert trained.judge(plain).argmax() == 0


def test_actions_by_category(folder: Path) -> None:
    rules = book(folder, 'actions = { threat = "block" }')
    texts = {"those people are worthless, all of them": "flag", "I will beat up those people": "block"}
    texts["I had lunch with that team"] = "allow"
    for text, action in texts.items():
        assert rules.take_in([Part(text, "user")]).action == action, text
        assert run(rules, [text])[2] == (action == "block")
    (found,) = rules.take_in([Part("I will beat up those people", "document")]).found
    assert found.finding.reason.startswith("reads like threat ")
    threat = Part("I will beat up that team", "user")
    assert book(folder, 'actions = { threat = "allow", scorn = "allow" }').take_in([threat]).found == ()
    assert book(folder, "thresholds = { threat = 99, scorn = 99 }").take_in([threat]).found == ()
    assert rules.take_in([Part(threat.text, "system")]).action == "allow"


def test_sentences_of_an_answer_one_verdict_at_every_cut(folder: Path) -> None:
    calm = "We went for a walk in the park and had some tea there. "
    scorn = "그 사람들은 정말 바보 같아서 말이 안 통하고 정말 한심하고 쓸모없는 사람들이다."
    text = f"{calm}I will beat up those people and that team. {calm}{scorn} {calm}"
    rules = book(folder, 'action = "redact"')
    whole = run(rules, [text])
    assert whole == run(rules, text)
    assert all(run(rules, [text[:cut], text[cut:]]) == whole for cut in range(1, len(text), 5))
    assert (len(whole[1]), whole[0].count(calm.strip())) == (2, 3)
    assert "beat" not in whole[0]
    assert "바보" not in whole[0]
    out, _, blocked = run(book(folder, 'action = "block"'), text)
    assert (out, blocked) == (calm, True)


def test_scores_that_are_none_fail(folder: Path, trained: HarmClassifier) -> None:
    weights = trained.weights.copy()
    weights[:] = np.nan
    HarmClassifier(KINDS, weights, trained.biases, trained.thresholds).save(folder / "harm.safetensors")
    assert book(folder, 'fail = "closed"').take_in([Part("hello there", "user")]).action == "block"
    assert run(book(folder, 'fail = "closed"'), ["hello there"])[2]
    assert book(folder).take_in([Part("hello there", "user")]).action == "flag"


def test_what_was_saved_is_what_is_read(folder: Path, trained: HarmClassifier) -> None:
    read = HarmClassifier.load(folder / "harm.safetensors")
    assert read.categories == KINDS
    assert np.allclose(read.judge(ROWS[0].text), trained.judge(ROWS[0].text))
    LinearDetector("d", np.zeros(1 << BITS, dtype=np.float32), 0.0).save(folder)
    with pytest.raises(InputError, match="no classifier of harm"):
        HarmClassifier.load(folder / "d.safetensors")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("actions = { hate = 'block' }", 'harm.actions: the file has no category "hate"'),
        (
            "actions = { scorn = 'kill' }",
            "rules.harm.actions = .*one of allow, flag, redact, block for scorn",
        ),
        ("thresholds = { scorn = 'high' }", "rules.harm.thresholds = .* a number for scorn"),
        ("file = 'd.safetensors'", "harm.file: .* is no classifier of harm"),
        ("", "rules.harm needs file"),
    ],
)
def test_what_a_policy_may_not_say(folder: Path, more: str, message: str) -> None:
    LinearDetector("d", np.zeros(1 << BITS, dtype=np.float32), 0.0).save(folder)
    file = "" if not more or "file" in more else 'file = "harm.safetensors"\n'
    (folder / "p.toml").write_text(f"format = 1\n[rules.harm]\n{file}{more}")
    with pytest.raises(ConfigError, match=message) as refused:
        Guard.open(str(folder / "p.toml"))
    assert "p.toml" in str(refused.value)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"text": row.text, "categories": sorted(row.categories), "group": row.group} for row in ROWS]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert (
        _run(
            [
                "guard",
                "train-harm",
                "--rows",
                str(file),
                "--out",
                str(tmp_path),
                "--false-alarms",
                "0.05",
                "--json",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert [one["category"] for one in told["categories"]] == list(KINDS)
    assert HarmClassifier.load(tmp_path / "harm.safetensors").thresholds.tolist() == [
        one["threshold"] for one in told["categories"]
    ]
    assert _run(["guard", "test-harm", "--rows", str(file), "--false-alarms", "0.1", "--json"]) == 0
    assert {"rows", "0.1"} == set(json.loads(capsys.readouterr().out))
    benign = tmp_path / "benign.txt"
    benign.write_text("\n".join(row.text for row in ROWS if not row.categories), encoding="utf-8")
    words = [
        "guard",
        "calibrate",
        "--detector",
        str(tmp_path / "harm.safetensors"),
        "--benign",
        str(benign),
        "--false-alarms",
        "0.1",
    ]
    assert _run([*words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["thresholds"]) == set(KINDS)
    file.write_text('{"text": "a", "categories": "hate"}')
    assert _run(["guard", "train-harm", "--rows", str(file), "--out", str(tmp_path)]) == 2


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text('{"text": "a", "categories": ["x"], "annotated": ["y"]}')
    with pytest.raises(InputError, match='row 1: "x" is among its categories'):
        read_harm_rows(file)
    with pytest.raises(InputError, match="no row has a category"):
        categories_of([HarmRow("a", frozenset(), "g")])
    with pytest.raises(InputError, match='category "x": 1 of 1 rows have it'):
        fit_harm([HarmRow("a", frozenset({"x"}), "g")], ("x",))


def test_area_under_the_curve() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auc(np.array([0.0]), np.array([1.0])) == 0.0
    assert auc(np.array([1.0]), np.array([1.0, 0.0])) == 0.75
