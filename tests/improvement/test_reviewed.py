"""Decisions made while an improvement is under way count, and a row of a file is reviewed only if it is the row of the store."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import append_jsonl, read_jsonl
from hanok.errors import InputError, Interrupted
from hanok.improvement import improve as improving
from hanok.improvement import rounds
from hanok.improvement.config import ImproveConfig
from hanok.improvement.export import export
from hanok.improvement.feedback import read_feedback
from hanok.improvement.improve import improve
from hanok.improvement.reviewed import review
from hanok.store.access import Access, User
from hanok.store.database import Feedback, Store, feedback_file
from hanok.store.review.items import Decision
from hanok.store.review.queue import Reviews
from hanok.store.review.rules import Reviewer

OPTIONAL = ImproveConfig(steps=1, rounds=1, tokens_per_step=512, max_seq_len=64, max_new_tokens=8, threads=1)
REQUIRED = dataclasses.replace(OPTIONAL, review="required")
ANN = Reviewer(id="ann")


def give(store: Store, question: str, correction: str, **values: Any) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "wrong"}]
    given = Feedback(
        request_id="r", model_hash="m", messages=messages, rating=-1, correction=correction, **values
    )
    return store.add_feedback(given)


def decide(store: Store, row: str, verdict: Any, correction: str | None = None) -> None:
    reviews = Reviews(store)
    decision = Decision(reviewer=ANN.id, verdict=verdict, reason="seen", correction=correction)
    reviews.decide(reviews.outcomes("feedback", [row])[row].id, decision, ANN, now=time.time())


@pytest.fixture
def stopped(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ImproveConfig], list[str]]:
    """Begins an improvement, or goes on, and stops it in its first round; the questions that it was about to learn."""

    def stop(*_given: Any, **_places: Any) -> Any:
        raise Interrupted("stopped by SIGTERM")

    def begin(config: ImproveConfig) -> list[str]:
        monkeypatch.setattr(rounds, "train", stop)
        with pytest.raises(Interrupted):
            improve(run, config=config)
        rows = read_jsonl(run / "improve-001" / "feedback" / "judgements.jsonl")
        return sorted(row["messages"][0]["content"] for row in rows)

    return begin


def test_going_on_takes_up_what_was_decided_meanwhile(
    run: Path, stopped: Callable[[ImproveConfig], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="hanok")
    with Store(feedback_file(run / "model")) as store:
        Access(store).add(User(id="u_gone", name="gone", tenant="default", role="user"))
        red, blue = give(store, "red?", "a ruby"), give(store, "blue?", "the sky")
        give(store, "green?", "a frog", owner="u_gone")
        assert stopped(OPTIONAL) == ["blue?", "green?", "red?"]
        give(store, "gold?", "a coin")  # what comes later waits for the next improvement
        decide(store, blue, "accept")  # and this changes nothing
        assert stopped(OPTIONAL) == ["blue?", "green?", "red?"]
        assert not caplog.records
        decide(store, red, "reject")
        assert stopped(OPTIONAL) == ["blue?", "gold?", "green?"]
        assert f"{red} was let in and is left out" in caplog.text
        assert "making it anew" in caplog.text
        Access(store).delete_user("u_gone")
        assert stopped(OPTIONAL) == ["blue?", "gold?"]
        assert "is deleted" in caplog.text


def test_what_was_approved_meanwhile_is_learnt(
    run: Path, stopped: Callable[[ImproveConfig], list[str]]
) -> None:
    with Store(feedback_file(run / "model")) as store:
        red, blue = give(store, "red?", "a ruby"), give(store, "blue?", "the sky")
        decide(store, red, "accept")
        assert stopped(REQUIRED) == ["red?"]
        decide(store, blue, "correct", "the sea at noon")
        assert stopped(REQUIRED) == ["blue?", "red?"]
        rows = {row["id"]: row for row in read_jsonl(run / "improve-001/feedback/judgements.jsonl")}
        assert rows[blue]["correction"] == "the sea at noon"


@pytest.mark.parametrize("verdict", ["reject", "accept"])
def test_a_model_that_learnt_what_was_rejected_meanwhile_is_not_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch, verdict: str
) -> None:
    with Store(feedback_file(run / "model")) as store:
        red = give(store, "red?", "a ruby")

        def learn(*_given: Any, base: Path, **_more: Any) -> Any:
            decide(store, red, verdict)
            return base, []

        monkeypatch.setattr(improving, "learn", learn)
        if verdict == "accept":  # the control
            assert improve(run, config=OPTIONAL).path.is_dir()
            return
        with pytest.raises(InputError, match=f"{red} was let in and is left out.* the model is not kept"):
            improve(run, config=OPTIONAL)
        assert not (run / "improve-001" / "model").exists()
        assert not (run / "improve-001" / "improvement.json").exists()
        with pytest.raises(InputError, match="nothing to learn"):  # begun anew, without the row
            improve(run, config=OPTIONAL)


def test_a_row_of_a_file_must_be_the_row_that_was_reviewed(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        red, blue, green = (give(store, f"{name}?", f"a {name}") for name in ("red", "blue", "green"))
        decide(store, red, "accept")
        decide(store, blue, "correct", "the sky")
    place = tmp_path / "store.sqlite"
    corpus = export(place, tmp_path / "out", config=REQUIRED, beside=place)
    rows = {row["id"]: row for row in read_jsonl(corpus.path / "judgements.jsonl")}
    assert set(rows) == {red, blue}

    def taken(*given: dict[str, Any], config: ImproveConfig = REQUIRED) -> dict[str, str]:
        """Id to what is learnt; of the others why not."""
        file = tmp_path / "given.jsonl"
        file.unlink(missing_ok=True)
        for row in given:
            append_jsonl(file, row)
        read, _ = read_feedback(file)
        reviewed = review(read, config, source=file, beside=place)
        return {one.id: str(one.correction) for one in reviewed.judgements} | {
            one.row: f"refused: {one.reason}" for one in reviewed.refused
        }

    assert taken(*rows.values()) == {red: "a red", blue: "the sky"}  # as they were exported
    asked = json.loads(json.dumps(rows[red]).replace("red?", "who may come in?"))
    for config in (REQUIRED, OPTIONAL):
        for forged in (asked, {**rows[red], "correction": "a bomb"}, {**rows[blue], "rating": 1}):
            (told,) = taken(forged, config=config).values()
            assert told == "refused: it is not the row that has this id in the store"
    assert "no reviewer" in taken({**rows[red], "id": "fb-unknown"})["fb-unknown"]
    assert "no reviewer" in taken({**rows[red], "id": green, "correction": "a green", "messages": [
        {"role": "user", "content": "green?"}, {"role": "assistant", "content": "wrong"}]})[green]  # fmt: skip
    with Store(place) as store:
        Access(store).delete_tenant("default", now=1.0)
    assert "no reviewer" in taken(rows[red])[red]
