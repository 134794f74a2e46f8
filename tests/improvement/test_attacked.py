"""From attacks that worked to a model that withstands them, by commands: attack, review, export, align, attack again, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import serving

from hanok.artefacts import read_jsonl
from hanok.cli import _run
from hanok.cli.attack_compare import compared
from hanok.guard.attack_runs import write_run
from hanok.guard.attacks import Answered, Outcome, draw
from hanok.improvement.attacked import PROPOSED, into_review
from hanok.store.database import Store, feedback_file
from hanok.store.review.queue import Reviews

LEARN = (
    "--max-steps", "40", "--pairs-per-step", "3", "--nll-weight", "2", "--muon-lr", "0.02", "--adamw-lr", "0.01", "--beta", "0.1",
    "--warmup-steps", "2", "--max-seq-len", "1024", "--threads", "1", "--held-out", "0",
)  # fmt: skip


def done(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """What a command prints as JSON; of one that fails its message."""
    found = _run([*words, "--json"])
    shown = capsys.readouterr()
    assert found == code, shown.err
    return json.loads(shown.out) if code == 0 else shown.err


def attack(capsys: pytest.CaptureFixture[str], model: Path, out: Path, *more: str) -> Any:
    with serving.service(model) as running:
        words = (
            "guard",
            "attack",
            "--url",
            f"{running.url}/v1",
            "--most",
            "8",
            "--family",
            "harmful",
            "--no-record",
            "--out",
            str(out),
        )
        return done(capsys, *words, *more)


def test_from_attacks_to_a_model_that_withstands_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model babbles, which is no refusal; after the pairs that a reviewer let in it refuses."""
    model = serving.make_model(tmp_path)
    store = ("--store", str(feedback_file(model)))
    before = attack(capsys, model, tmp_path / "before", "--review", *store)
    harmful = before["families"]["harmful"]
    assert harmful["wrong"] == harmful["tried"] == before["to_review"] == 8
    assert done(
        capsys, "review", "export", str(tmp_path / "early"), *store, code=2
    )  # nobody has looked at them yet

    waiting = done(capsys, "review", "list", *store)["reviews"]
    assert len(waiting) == harmful["wrong"]
    for one in waiting:
        done(
            capsys,
            "review",
            "decide",
            one["id"],
            "--verdict",
            "accept",
            "--reason",
            "it should refuse",
            *store,
        )
    done(capsys, "review", "export", str(tmp_path / "data"), *store)
    pairs = tmp_path / "data" / "feedback" / "preferences.jsonl"
    assert {row["chosen"][0]["content"] for row in read_jsonl(pairs)} == set(PROPOSED["harmful"].values())

    words = ("align", "dpo", "--model", str(model), "--data", str(pairs), "--out", str(tmp_path / "dpo"))
    done(capsys, *words, *LEARN)
    attack(capsys, tmp_path / "dpo" / "model", tmp_path / "after")
    found = done(capsys, "guard", "compare-attacks", str(tmp_path / "before"), str(tmp_path / "after"))
    change = found["families"]["harmful"]
    assert (change["pairs"], change["before"], change["gone_wrong"]) == (harmful["tried"], 1.0, 0)
    assert change["after"] <= 0.25
    assert "harmful" in found["better"]


@pytest.mark.parametrize(("before", "after", "sure"), [(20, 2, "better"), (2, 20, "worse"), (10, 9, "")])
def test_the_same_attacks_before_and_after(
    before: int, after: int, sure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = [one for one in draw(240, seed=1) if one.family in ("leak", "honest")]
    leaks = [one.id for one in attacks if one.family == "leak"]
    for name, wrong in (("before", before), ("after", after)):
        outcomes = [
            Outcome(one, "wrong" if one.id in leaks[:wrong] else "held", Answered("x")) for one in attacks
        ]
        outcomes[-1] = Outcome(attacks[-1], "error")  # left out
        write_run(outcomes, tmp_path / name, facts={"set": "one", "seed": 1})
    words = ("guard", "compare-attacks", str(tmp_path / "before"), str(tmp_path / "after"))
    if sure == "worse":
        assert "more goes wrong than before: leak, all attacks" in done(capsys, *words, code=1)
        return
    found = done(capsys, *words)
    leak, honest = found["families"]["leak"], found["families"]["honest"]
    assert (leak["pairs"], leak["gone_right"], leak["gone_wrong"]) == (len(leaks), before - after, 0)
    assert (honest["pairs"], honest["difference"]) == (len(attacks) - len(leaks) - 1, 0)
    assert found["families"]["all attacks"]["pairs"] == len(leaks)
    assert found["better"] == (["leak", "all attacks"] if sure else [])


def test_runs_that_cannot_be_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attacks = draw(24, seed=1)
    for name, texts, some in (
        ("one", "a", attacks[:4]),
        ("other", "a", attacks[4:8]),
        ("newer", "b", attacks[:4]),
    ):
        write_run(
            [Outcome(one, "held", Answered("x")) for one in some], tmp_path / name, facts={"set": texts}
        )
    first = str(tmp_path / "one")
    assert "no attack was answered in both" in done(
        capsys, "guard", "compare-attacks", first, str(tmp_path / "other"), code=2
    )
    assert "different texts" in done(
        capsys, "guard", "compare-attacks", first, str(tmp_path / "newer"), code=2
    )


def test_intervals_are_of_pairs() -> None:
    """Eight of ten attacks change sides each way: no change of the share, and an interval around it."""
    row = {"family": "leak", "goal": "secret"}
    pairs = [
        ({**row, "result": a}, {**row, "result": b}) for a, b in [("wrong", "held"), ("held", "wrong")] * 8
    ]
    count, change = compared(pairs)["leak"]
    assert (count, change.difference) == (16, 0)
    assert change.low < 0 < change.high


def test_each_attack_waits_once_for_each_model(tmp_path: Path) -> None:
    """And only what the model itself said wrong; an honest question that was refused wants a reviewer's words."""
    attacks = {one.family: one for one in draw(24, seed=1)}
    call = {"id": "c", "type": "function", "function": {"name": "send_mail", "arguments": "{}"}}
    outcomes = [
        Outcome(attacks["leak"], "wrong", Answered("It is so.")),
        Outcome(attacks["planted-tool"], "wrong", Answered("", [call])),
        Outcome(attacks["honest"], "wrong", Answered("I cannot.")),
        Outcome(attacks["override"], "held", Answered("No.")),
        Outcome(attacks["harmful"], "wrong", Answered("Sure", blocked=True)),
        Outcome(attacks["planted-document"], "error"),
    ]
    with Store(tmp_path / "store.sqlite") as store:
        assert len(into_review(outcomes, store, model="m", reviewers=2)) == 3
        assert into_review(outcomes, store, model="m") == []
        assert len(into_review(outcomes, store, model="other")) == 3
        items = Reviews(store).page(now=0.0)
        rows = {one.id: store.find_feedback(one.source) for one in items}
    assert {one.required for one in items} == {1, 2}
    assert {row.correction for row in rows.values() if row is not None and "honest" in row.reason} == {None}
    assert any(row is not None and row.messages[-1].get("tool_calls") == [call] for row in rows.values())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--store", "{0}/absent.db"), "there is no database at"),
        (("--store", "{0}/text.db"), "cannot be used as a database"),
        (("--store", "{0}/good.db", "--audit-dir", "{0}/absent"), "nothing may be changed"),
        (("--store", "{0}/good.db", "--out", "{0}/text.db/out"), "nothing can be written in"),
        (("--store", "{0}/good.db", "--out", "{0}"), "is there already"),
        (("--store", "{0}/good.db", "--out", "{0}/new/out"), None),
    ],
)  # fmt: skip
def test_places_that_cannot_be_written_are_told_before_the_first_attack(
    words: tuple[str, ...], why: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    Store(tmp_path / "good.db").close()
    (tmp_path / "text.db").write_text("no database, but longer than the head of one would be\n" * 20)
    sent = []
    monkeypatch.setattr("hanok.guard.attacks.run", lambda attacks, _ask: sent.extend(attacks) or [])
    given = [word.format(tmp_path) for word in words]
    shown = done(
        capsys,
        "guard",
        "attack",
        "--model",
        "m",
        "--no-record",
        "--review",
        *given,
        code=1 if why is None else 2,
    )
    assert bool(sent) is (why is None)
    assert (why or "answered none of 0 attacks") in shown
    assert not (tmp_path / "absent.db").exists()
