"""Step 8 from end to end: a correction on the page, a model that has learnt it, and everything else as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from hanok.artefacts import open_artefact, read_jsonl, withdraw
from hanok.artefacts.signing import make_key
from hanok.cli import _run
from hanok.engine.generator import LocalEngine
from hanok.errors import ArtefactError, ConfigError, InputError, Interrupted
from hanok.evaluation.ask import ask
from hanok.evaluation.config import VerifyConfig
from hanok.improvement import rounds
from hanok.improvement.accepted import current_model
from hanok.improvement.config import ImproveConfig
from hanok.improvement.improve import improve
from hanok.recipes.runs import servable_model
from hanok.server.app import create_app, listen, services_of
from hanok.store.database import Store, feedback_file
from hanok.tokens.tokenizer import Tokenizer

CONFIG = ImproveConfig(
    steps=10, rounds=6, tokens_per_step=512, muon_lr=0.015, adamw_lr=0.008, max_seq_len=64, max_new_tokens=16,
    bits_slack=0.02, threads=1,
)  # fmt: skip
GREEDY = VerifyConfig(max_new_tokens=16)
CORRECTED = {"red?": "a ruby", "blue?": "the sky"}


def answers(model: Path, questions: list[str]) -> dict[str, str]:
    engine = LocalEngine(model, threads=1)
    asked = [{"kind": "x", "messages": [{"role": "user", "content": question}]} for question in questions]
    said = ask(engine, Tokenizer.load(model), asked, GREEDY, lambda _call: "")
    engine.close()
    return {question: answer.text for question, answer in zip(questions, said, strict=True)}


@contextlib.contextmanager
def served(model: Path) -> Iterator[httpx.Client]:
    engine = LocalEngine(model, threads=1)
    with Store(feedback_file(model)) as store, listen("127.0.0.1", 0) as listener:
        app = create_app(services_of(engine, model, store, name="colours"))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            yield client
        server.should_exit = True
        thread.join()
    engine.close()


def judge(client: httpx.Client, question: str, **opinion: Any) -> str:
    """Ask, and post an opinion on the answer."""
    body = {
        "model": "colours",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 16,
    }
    done = client.post("/v1/chat/completions", json=body).json()
    posted = client.post("/v1/feedback", json={"request_id": done["id"], **opinion})
    assert posted.status_code == 201
    return done["choices"][0]["message"]["content"]


def correct_over_http(run: Path) -> None:
    with served(servable_model(run)) as client:
        for question, correction in CORRECTED.items():
            judge(client, question, rating=-1, correction=correction)
        assert judge(client, "green?", rating=1) == "a pine"


def test_a_corrected_answer_is_learnt_and_the_others_stay(run: Path, known: dict[str, str]) -> None:
    assert answers(run / "model", list(known)) == known
    correct_over_http(run)
    model = improve(run, config=CONFIG)

    assert model.metrics["accepted"] is True
    assert answers(model.path, list(known)) == {**known, **CORRECTED}
    assert servable_model(run) == model.path == run / "improve-001" / "model"
    counts = {
        name: model.metrics[name]
        for name in ("corrections", "corrections.before", "corrections.after", "liked")
    }
    assert counts == {"corrections": 2, "corrections.before": 0, "corrections.after": 2, "liked": 1}
    assert model.metrics["others.questions"] == 5  # all but the three that were judged
    assert model.metrics["others.after"] == 1.0

    base = open_artefact(run / "model")
    corpus = open_artefact(run / "improve-001" / "feedback", kind="corpus")
    assert model.parents == {
        "model": base.hash, "feedback": corpus.hash, "shards": open_artefact(run / "improve-001" / "shards").hash,
    }  # fmt: skip
    pairs = list(read_jsonl(corpus.path / "preferences.jsonl"))
    assert {pair["chosen"][0]["content"] for pair in pairs} == set(CORRECTED.values())
    assert {pair["model_hash"] for pair in pairs} == {base.hash}
    assert all(pair["request_id"].startswith("chatcmpl-") for pair in pairs)
    report = json.loads((run / "improve-001" / "report.json").read_text(encoding="utf-8"))
    assert report["accepted"] is True
    assert len(list(read_jsonl(run / "improve-001" / "answers.jsonl"))) == 3 + 5
    assert not list(run.glob("improve-001/round-*/model"))

    # with nothing new the same command changes nothing; with something new it goes on from here
    assert improve(run, config=CONFIG).path == model.path
    with served(servable_model(run)) as client:
        assert judge(client, "red?", rating=1) == "a ruby"
        judge(client, "gold?", rating=-1, correction="a ring")
    second = improve(run, config=CONFIG)
    assert second.path == run / "improve-002" / "model"
    assert second.parents["model"] == model.hash
    assert answers(second.path, list(known)) == {**known, **CORRECTED, "gold?": "a ring"}
    assert servable_model(run) == second.path


@pytest.mark.slow
def test_a_model_that_forgot_other_things_is_not_served(
    run: Path, known: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hanok")
    feedback = write(
        tmp_path, [row("red?", "a rose", "I do not know"), row("blue?", "the sea", "I do not know")]
    )
    reckless = dataclasses.replace(CONFIG, replay=0.0, muon_lr=0.05, adamw_lr=0.02, steps=40, rounds=1)
    model = improve(run, feedback=feedback, config=reckless)
    assert model.metrics["accepted"] is False
    assert any("other questions" in reason for reason in model.metrics["reasons"])
    assert any("validation" in reason for reason in model.metrics["reasons"])
    assert servable_model(run) == run / "model"
    assert "improve-001 was not accepted" in caplog.text
    page = (run / "improve-001" / "report.html").read_text(encoding="utf-8")
    assert "Not accepted" in page
    assert improve(run, feedback=feedback, config=reckless).path == model.path  # it would come out the same

    careful = improve(run, feedback=feedback, config=CONFIG)
    assert careful.path == run / "improve-002" / "model"
    assert careful.parents["model"] == open_artefact(run / "model").hash
    assert servable_model(run) == careful.path


def test_it_goes_on_where_it_was_stopped(
    run: Path, known: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feedback = write(tmp_path, [row("red?", "a rose", "a ruby")])
    slow = dataclasses.replace(CONFIG, steps=1, rounds=2, muon_lr=0.0001, adamw_lr=0.0001, tolerance=1.0)
    whole = Path(shutil.copytree(run, tmp_path / "whole", symlinks=True))
    expected = improve(whole, feedback=feedback, config=slow)
    assert expected.metrics["rounds"] == 2

    trained: list[str] = []
    train = rounds.train

    def stopped_in_the_second(config: Any, **places: Any) -> Any:
        trained.append(places["out"].name)
        if len(trained) == 2:
            raise Interrupted("stopped by SIGTERM")
        return train(config, **places)

    monkeypatch.setattr(rounds, "train", stopped_in_the_second)
    with pytest.raises(Interrupted):
        improve(run, feedback=feedback, config=slow)
    assert servable_model(run) == run / "model"
    feedback.unlink()  # what was read first is what counts
    feedback = write(tmp_path, [row("blue?", "the sea", "the sky")])
    model = improve(run, feedback=feedback, config=slow)
    assert trained == ["round-01", "round-02", "round-02"]
    assert model.path == run / "improve-001" / "model"
    assert model.hash == expected.hash


@pytest.mark.slow
def test_another_setting_starts_the_unfinished_one_anew(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feedback = write(tmp_path, [row("red?", "a rose", "a ruby")])

    def stopped(*_given: Any, **_places: Any) -> Any:
        raise Interrupted("stopped by SIGTERM")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(rounds, "train", stopped)
        improve(run, feedback=feedback, config=CONFIG)
    other = dataclasses.replace(CONFIG, replay=0.5)
    model = improve(run, feedback=feedback, config=other)
    assert model.path == run / "improve-001" / "model"
    result = json.loads((run / "improve-001" / "improvement.json").read_text(encoding="utf-8"))
    assert result["config"]["replay"] == 0.5


def test_an_improvement_of_a_model_that_was_made_anew_is_not_served(run: Path, tmp_path: Path) -> None:
    feedback = write(tmp_path, [row("red?", "a rose", "a ruby")])
    model = improve(run, feedback=feedback, config=CONFIG)
    assert current_model(run) == model.path
    manifest = run / "sft" / "model" / "artefact.json"
    text = manifest.read_text(encoding="utf-8")
    record = json.loads(text)
    shutil.move(run / "sft" / "model", run / "sft" / "old")
    shutil.copytree(model.path, run / "sft" / "model")
    assert json.loads((run / "model" / "artefact.json").read_text())["hash"] != record["hash"]
    assert current_model(run) == run / "model"
    (run / "improve-001" / "improvement.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"improvement\.json lacks"):
        current_model(run)


def test_bad_input_is_one_message(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no finished run"):
        improve(tmp_path)
    with pytest.raises(InputError, match="no feedback at"):
        improve(run)
    nothing = write(tmp_path, [row("red?", "a rose", None)])
    with pytest.raises(InputError, match=r"nothing to learn from 1 rows .* does not say what to learn"):
        improve(run, feedback=nothing)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        improve(run, feedback=nothing, out=tmp_path / "full")
    assert _run(["improve", str(run), "--feedback", str(nothing)]) == 2
    assert "nothing to learn" in capsys.readouterr().err


def test_the_command_says_what_came_of_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feedback = write(tmp_path, [row("red?", "a rose", "a ruby")])
    flags = [
        f"--{field.name.replace('_', '-')}={getattr(CONFIG, field.name)}"
        for field in dataclasses.fields(CONFIG)
    ]
    assert _run(["improve", str(run), "--feedback", str(feedback), *flags, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["accepted"] is True
    assert "1 of 1 corrected answers are given (0 before)" in captured.err
    assert f"next: hanok serve {run}" in captured.err
    assert _run(["runs", "list", "--directory", str(run.parent)]) == 0
    assert "withdrawn" not in capsys.readouterr().err
    withdraw(run / "improve-001" / "model", "people complained", by="u_ann")
    assert _run(["improve", str(run), "--feedback", str(feedback), *flags, "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["accepted"], told["withdrawn"]["by"]) == (False, "u_ann")
    assert re.search(
        r"accepted, then withdrawn on \d{4}-\d\d-\d\d \d\d:\d\d UTC by u_ann: people complained", captured.err
    )
    assert "next: hanok serve" not in captured.err
    assert _run(["runs", "list", "--directory", str(run.parent), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["runs"][0]["improvements"] == "1 of 1 accepted, 1 withdrawn since"
    )


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "feedback.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in rows), encoding="utf-8")
    return file


def row(question: str, said: str, correction: str | None) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return {"messages": messages, "rating": -1, "correction": correction}


def test_only_a_model_that_a_key_has_signed_is_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, key = tmp_path / "run", tmp_path / "maker"
    for folder in ("model", "shards"):
        (run / folder).mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "model" / "config.json").write_text("{}")
    words = ["improve", str(run), "--require-signature", str(key.with_suffix(".pub"))]
    make_key(key)
    assert _run(words) == 2
    assert f"{run / 'model'} is not signed" in capsys.readouterr().err
    assert _run(["model", "sign", str(run), "--key", str(key)]) == 0
    capsys.readouterr()
    assert _run(words) == 2  # the control: from here on it is the feedback that is missing
    assert "signed" not in capsys.readouterr().err
