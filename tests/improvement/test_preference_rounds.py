"""Rounds that learn from pairs: the corrected answer before the one that was given, the liked one before the disliked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hanok.artefacts import read_jsonl
from hanok.engine.generator import LocalEngine
from hanok.errors import ConfigError, InputError, Interrupted
from hanok.evaluation.ask import ask
from hanok.evaluation.config import VerifyConfig
from hanok.improvement import rounds
from hanok.improvement.config import ImproveConfig
from hanok.improvement.improve import improve
from hanok.tokens.tokenizer import Tokenizer

CONFIG = ImproveConfig(
    objective="dpo", steps=8, rounds=6, tokens_per_step=512, muon_lr=0.012, adamw_lr=0.006, max_seq_len=64, questions=4,
    max_new_tokens=16, bits_slack=0.2, tolerance=0.3, pairs_per_step=4, preference_lr=1.0, threads=1,
)  # fmt: skip


def row(question: str, said: str, rating: int, correction: str | None = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return {"messages": messages, "rating": rating, "correction": correction}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "feedback.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in rows), encoding="utf-8")
    return file


def said(model: Path, question: str) -> str:
    engine = LocalEngine(model, threads=1)
    asked = [{"kind": "x", "messages": [{"role": "user", "content": question}]}]
    answers = ask(engine, Tokenizer.load(model), asked, VerifyConfig(max_new_tokens=16), lambda _call: "")
    engine.close()
    return answers[0].text


def test_a_correction_is_learnt_from_its_pair(run: Path, tmp_path: Path) -> None:
    assert said(run / "model", "red?") == "a rose"
    feedback = write(
        tmp_path, row("red?", "a rose", -1, "a ruby"), row("green?", "a rock", -1), row("green?", "a pine", 1)
    )
    model = improve(run, feedback=feedback, config=CONFIG)
    pairs = list(read_jsonl(run / "improve-001" / "feedback" / "preferences.jsonl"))
    sides = {(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs}
    assert sides == {("a ruby", "a rose"), ("a pine", "a rock")}
    steps = list(read_jsonl(run / "improve-001" / "round-01" / "metrics.jsonl"))
    assert any("preference.margin" in step for step in steps), steps[0].keys()
    assert said(model.path, "red?") == "a ruby"
    assert said(model.path, "green?") == "a pine"
    assert model.metrics["accepted"] is True, model.metrics["reasons"]
    assert not list(run.glob("improve-001/round-*/model")) + list(run.glob("improve-001/round-*/reference"))


def test_preferences_follow_the_lessons_and_go_on_where_they_were_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feedback = write(tmp_path, row("red?", "a rose", -1, "a ruby"))
    config = dataclasses.replace(CONFIG, objective="sft+dpo", steps=1, rounds=1)
    calls: list[tuple[str, Path]] = []
    train, align = rounds.train, rounds.align_on_preferences

    def told(config: Any, **places: Any) -> Any:
        calls.append(("sft", places["init_from"]))
        return train(config, **places)

    def preferred(method: str, config: Any, **places: Any) -> Any:
        calls.append((method, places["model"]))
        if len(calls) == 2:
            raise Interrupted("stopped by SIGTERM")
        return align(method, config, **places)

    monkeypatch.setattr(rounds, "train", told)
    monkeypatch.setattr(rounds, "align_on_preferences", preferred)
    with pytest.raises(Interrupted):
        improve(run, feedback=feedback, config=config)
    lessons = run / "improve-001" / "round-01-sft" / "model"
    learnt = (lessons / "model.safetensors").read_bytes()
    model = improve(run, feedback=feedback, config=config)
    assert calls == [("sft", run / "model"), ("dpo", lessons)] * 2
    assert (model.path / "model.safetensors").read_bytes() != learnt
    assert not lessons.exists()  # the disk is freed


def test_pairs_are_needed_and_settings_are_checked(run: Path, tmp_path: Path) -> None:
    liked = write(tmp_path, row("red?", "a rose", 1))
    for objective in ("dpo", "sft+dpo"):
        with pytest.raises(InputError, match=f"objective = .*{objective.replace('+', '.')}"):
            improve(run, feedback=liked, config=dataclasses.replace(CONFIG, objective=objective))
    for change in ({"objective": "ppo"}, {"beta": 0.0}, {"nll_weight": -1.0}, {"pairs_per_step": 0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            dataclasses.replace(CONFIG, **change)
