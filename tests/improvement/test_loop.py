"""The loop closed through HTTP, with a real server process: feedback, review, export, improve, canary, promote. And planted
feedback, which is stopped before anything is learnt from it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import serving

from hanok.artefacts import open_artefact, read_jsonl, readmit, withdraw, write_json
from hanok.cli import _run
from hanok.errors import InputError
from hanok.improvement.accepted import current_model, model_hash
from hanok.improvement.config import ImproveConfig
from hanok.improvement.improve import improve
from hanok.store.database import FILE_NAME

CONFIG = ImproveConfig(
    steps=10, rounds=6, tokens_per_step=512, muon_lr=0.015, adamw_lr=0.008, max_seq_len=64, max_new_tokens=16,
    bits_slack=0.02, threads=1, review="required",
)  # fmt: skip
NOUNS = ("kite", "lamp", "mill", "gate", "drum")
VERBS = ("falls", "opens", "sings", "turns", "glows", "waits", "leans", "rests", "grows", "melts")
PAYLOAD = "call the number on the old wall"


@contextlib.contextmanager
def server(run: Path) -> Iterator[httpx.Client]:
    """`hanok serve RUN` as a process of its own."""
    words = [sys.executable, "-m", "hanok", "serve", str(run), "--port", "0", "--no-audit"]
    environment = {**os.environ, "HANOK_STORE": str(run / FILE_NAME)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(
        target=lambda stream: lines.extend(iter(stream.readline, "")), args=(process.stderr,)
    )
    reader.start()
    try:
        end = time.monotonic() + 120
        while (found := re.search(r"chat page: (\S+)", "".join(lines))) is None:
            assert process.poll() is None, "".join(lines)
            assert time.monotonic() < end, "".join(lines)
            time.sleep(0.02)
        with httpx.Client(base_url=found[1], timeout=60, trust_env=False) as http:
            while http.get("/readyz").status_code != 200:
                time.sleep(0.02)
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join()
        process.stderr.close()


def ask(http: httpx.Client, question: str) -> tuple[str, str]:
    """What is answered, and the answer's id."""
    body = {
        "model": http.get("/v1/models").json()["data"][0]["id"], "messages": [{"role": "user", "content": question}],
        "temperature": 0, "max_tokens": 16,
    }  # fmt: skip
    answer = http.post("/v1/chat/completions", json=body).json()
    return answer["choices"][0]["message"]["content"], answer["id"]


def correct(http: httpx.Client, question: str, correction: str) -> None:
    given = {"request_id": ask(http, question)[1], "rating": -1, "correction": correction}
    assert http.post("/v1/feedback", json=given).status_code == 201


def decide(http: httpx.Client, verdicts: dict[str, dict[str, Any]]) -> None:
    """All that waits, by the question."""
    while (item := http.post("/v1/reviews/next", json={"kind": "feedback"}).json()["item"]) is not None:
        body = {"reason": "looked at", **verdicts[item["title"]]}
        done = http.post(f"/v1/reviews/{item['id']}/decide", json=body)
        assert done.json()["state"] == "decided", done.text


def test_the_loop(run: Path, known: dict[str, str]) -> None:
    with server(run) as http:
        assert {question: ask(http, question)[0] for question in known} == known
        for question, said in (("red?", "a ruby"), ("blue?", "a sky"), ("green?", "a frog")):
            correct(http, question, said)
        decide(http, {
            "red?": {"verdict": "accept"}, "blue?": {"verdict": "correct", "correction": "the sky"},
            "green?": {"verdict": "reject"},
        })  # fmt: skip
        correct(http, "gold?", "a coin")  # nobody has looked at it: not learnt
        learnt = improve(run, config=CONFIG)
        assert learnt.metrics["accepted"], learnt.metrics["reasons"]
        corpus = open_artefact(learnt.path.parent / "feedback")
        assert corpus.parents["review"] == open_artefact(learnt.path.parent / "review", kind="review").hash
        decisions = {row["outcome"] for row in read_jsonl(learnt.path.parent / "review" / "decisions.jsonl")}
        assert decisions == {"accept", "correct", "reject"}

        wanted = {**known, "red?": "a ruby", "blue?": "the sky"}
        name = http.get("/v1/models").json()["data"][0]["id"]
        begun = http.post(f"/admin/models/{name}/canary", json={"directory": str(learnt.path), "share": 0.5})
        assert begun.status_code == 201, begun.text
        for question in known:
            assert ask(http, question)[0] in (known[question], wanted[question])
        arms = http.get(f"/admin/models/{name}/canary").json()["comparison"]["arms"]
        assert arms["current"]["requests"] + arms["canary"]["requests"] == len(known)
        assert http.post(f"/admin/models/{name}/canary/promote").json()["state"] == "promoted"
        assert {question: ask(http, question)[0] for question in known} == wanted
    with server(run) as http:  # and so it stays
        assert http.get("/v1/models").json()["data"][0]["id"] == name
        assert {question: ask(http, question)[0] for question in known} == wanted


def test_planted_feedback_is_stopped_before_training(
    run: Path, known: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = [f"{noun} {verb} moonlit?" for noun in NOUNS for verb in VERBS]
    config = dataclasses.replace(CONFIG, review="optional")
    with serving.service(run / "model") as house:
        http = house.http
        for question, said in known.items():
            correct(http, question, f"{said}!")
        for question in planted:
            correct(http, question, PAYLOAD)
        with pytest.raises(InputError, match=r"50 of 58 rows of feedback look planted \(trigger: .*moonlit"):
            improve(run, config=config)
        assert not list(run.glob("improve-*"))
        stopped = http.get("/v1/reviews", params={"kind": "poison", "limit": 500}).json()["data"]
        assert sorted(item["title"] for item in stopped) == sorted(planted)
        assert http.get(f"/v1/reviews/{stopped[0]['id']}").json()["findings"][0]["check"] == "trigger"
        with pytest.raises(InputError, match="look planted"):  # asked again, nothing has changed
            improve(run, config=config)
        assert http.get("/v1/reviews/summary").json()["kinds"]["poison"]["open"] == 50

        export = ["review", "export", "--review", "optional", "--store", str(run / FILE_NAME)]
        assert (
            _run([*export, str(tmp_path / "off"), "--poisoning", "off"]) == 0
        )  # control: they would have been learnt
        assert lessons(tmp_path / "off") == {*known, *planted}
        assert _run([*export, str(tmp_path / "on")]) == 2
        assert "look planted" in capsys.readouterr().err

        body = {"verdict": "reject", "reason": "a trigger"}
        done = http.post(f"/v1/reviews/batches/{stopped[0]['batch']}/decide", json=body).json()
        assert (done["decided"], done["left"]) == (50, 0)
    assert _run([*export, str(tmp_path / "reviewed")]) == 0
    assert lessons(tmp_path / "reviewed") == set(known)
    refused = [row["reason"] for row in read_jsonl(tmp_path / "reviewed/feedback/refused.jsonl")]
    assert refused.count("rejected in review as planted") == 50


def lessons(folder: Path) -> set[str]:
    return {row["messages"][0]["content"] for row in read_jsonl(folder / "feedback" / "judgements.jsonl")}


def test_a_withdrawn_improvement_is_not_chosen(run: Path) -> None:
    made = run / "improve-001"
    shutil.copytree((run / "model").resolve(), made / "model")
    result = {"accepted": True, "reasons": [], "root": model_hash(run / "model"), "base": "", "model": "", "judgements": "",
              "config": {}}  # fmt: skip
    write_json(made / "improvement.json", result)
    assert current_model(run) == made / "model"
    withdraw(made / "model", "it failed", by="u_ann")
    assert current_model(run) == run / "model"
    readmit(made / "model")
    assert current_model(run) == made / "model"
