"""Verify end to end on an untrained model, and its counting with scripted answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hanok.artefacts import create_artefact, open_artefact, read_jsonl
from hanok.engine.api import Completion, Request, Usage
from hanok.errors import ArtefactError, ConfigError
from hanok.evaluation.ask import ask
from hanok.evaluation.compare import compare, compare_marked
from hanok.evaluation.config import VerifyConfig
from hanok.evaluation.verify import verify
from hanok.evaluation.village import (
    breakdown,
    by_attribute,
    headlines,
    is_right,
    mark,
    read_questions,
    tool_runner,
)
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from conftest import House

QUICK = VerifyConfig(questions=24, max_new_tokens=8, bits_tokens=2000, samples=1)


class Scripted:
    """Says what `reply` makes of the prompt's text."""

    def __init__(self, tokenizer: Tokenizer, reply: Callable[[str], str]) -> None:
        self.tokenizer, self.reply, self.prompts = tokenizer, reply, []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        out = []
        for request in requests:
            prompt = self.tokenizer.decode(request.prompt_ids, skip_special=False)
            self.prompts.append(prompt)
            usage = Usage(prompt_tokens=0, completion_tokens=0)
            ids = tuple(self._ids(self.reply(prompt)))
            out.append(Completion(ids=ids, finish_reason="stop", usage=usage))
        return out

    def _ids(self, text: str) -> list[int]:
        opened, body = "<tool_call>", text
        if not text.startswith(opened):
            return self.tokenizer.encode(text)
        body = text.removeprefix(opened).removesuffix("</tool_call>")
        special = self.tokenizer.special
        return [special[opened], *self.tokenizer.encode(body), special["</tool_call>"]]


def last_turn(messages: Sequence[Mapping[str, Any]]) -> str:
    return str(messages[-1]["content"])


def perfect(house: House, rows: Sequence[Mapping[str, Any]]) -> Scripted:
    """Knows every gold answer, and calls the wanted tool first."""

    def reply(prompt: str) -> str:
        row = max((r for r in rows if last_turn(r["messages"]) in prompt and all(m["content"] in prompt for m in r["messages"])),
                  key=lambda r: len(last_turn(r["messages"])))  # fmt: skip
        if row["call"] and "<tool_response>" not in prompt:
            return f"<tool_call>\n{json.dumps(row['call'], ensure_ascii=False)}\n</tool_call>"
        return row["gold"]

    return Scripted(house.tokenizer, reply)


def test_perfect_answers_are_all_right(house: House) -> None:
    rows = read_questions(house.village)
    engine = perfect(house, rows)
    marked = mark(rows, ask(engine, house.tokenizer, rows, VerifyConfig(), tool_runner(house.village)))
    assert all(row.right for row in marked), [row for row in marked if not row.right][:2]
    lines = {line.name: line.share for line in headlines(marked, 0.95)}
    assert lines["accuracy"].value == 1.0
    assert lines["accuracy"].count == len(rows)
    assert lines["false_abstention"].right == 0
    for name in (
        "seen_templates.ko", "seen_templates.en", "unseen_templates.ko", "unseen_templates.en", "documents_only",
        "arithmetic", "abstention", "fact", "follow_up", "comparison", "tool",
    ):  # fmt: skip
        assert lines[name].count > 0
        assert lines[name].value == 1.0


def test_tools_are_run_and_their_results_shown_to_the_model(house: House) -> None:
    rows = [row for row in read_questions(house.village) if row["kind"] == "tool"]
    engine = perfect(house, rows)
    answers = ask(engine, house.tokenizer, rows, VerifyConfig(), tool_runner(house.village))
    assert all(len(answer.tool_calls) == 1 for answer in answers)
    shown = [prompt for prompt in engine.prompts if "<tool_response>" in prompt]
    assert len(shown) == len(rows)
    for row, answer in zip(rows, answers, strict=True):
        result = tool_runner(house.village)(answer.tool_calls[0])
        assert result not in ("error", "none")
        assert any(f"<tool_response>\n{result}\n</tool_response>" in prompt for prompt in shown), row["id"]


def test_a_model_that_calls_for_ever_is_cut_off(house: House) -> None:
    rows = [row for row in read_questions(house.village) if row["kind"] == "tool"][:3]
    call = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "1+1"}}\n</tool_call>'
    engine = Scripted(house.tokenizer, lambda prompt: call)
    answers = ask(engine, house.tokenizer, rows, VerifyConfig(tool_rounds=2), tool_runner(house.village))
    assert len(engine.prompts) == 3 * len(rows)
    assert not any(row.right for row in mark(rows, answers))


def test_one_who_always_declines(house: House) -> None:
    rows = read_questions(house.village)
    engine = Scripted(house.tokenizer, lambda prompt: "I do not know.")
    marked = mark(rows, ask(engine, house.tokenizer, rows, VerifyConfig(), tool_runner(house.village)))
    lines = {line.name: line.share for line in headlines(marked, 0.95)}
    assert lines["abstention"].value == 1.0
    assert lines["false_abstention"].value == 1.0
    assert lines["fact"].value == 0.0
    assert sum(share.count for _, share in breakdown(marked, 0.95)) == len(rows)
    assert sum(share.count for _, share in by_attribute(marked, 0.95)) == sum(
        r["kind"] == "fact" for r in rows
    )


def test_fewer_questions_are_spread_evenly(house: House) -> None:
    rows = read_questions(house.village, limit=20)
    assert len(rows) == 20
    assert {row["language"] for row in rows} == {"ko", "en"}
    assert len({row["kind"] for row in rows}) >= 4


def test_validation_questions_are_others(house: House) -> None:
    exam, validation = read_questions(house.village), read_questions(house.village, split="validation")
    asked = [{json.dumps(row["messages"]) for row in rows} for rows in (exam, validation)]
    assert asked[1]
    assert not asked[0] & asked[1]


def test_texts_are_compared_without_case_and_spaces(house: House) -> None:
    engine = Scripted(house.tokenizer, lambda prompt: " the Pond  is deep")
    question = {
        "kind": "correction",
        "messages": [{"role": "user", "content": "?"}],
        "answer": "The pond is deep.",
    }
    (answer,) = ask(engine, house.tokenizer, [question], VerifyConfig(), lambda call: "")
    assert is_right(question, answer)
    assert not is_right(question | {"answer": "The pond is deep and cold."}, answer)
    assert is_right(question | {"answer": "x", "acceptable": ["the pond is deep", "y"]}, answer)


def test_verify_end_to_end(house: House, tmp_path: Path) -> None:
    artefact = verify(
        QUICK, model=house.model, shards=house.shards, village=house.village, out=tmp_path / "verify"
    )
    assert artefact.kind == "evaluation"
    assert set(artefact.parents) == {"model", "shards", "village"}
    assert artefact.metrics["village.questions"] == 24
    assert 0 < artefact.metrics["bits_per_byte.text"] < 20
    rows = list(read_jsonl(artefact.path / "answers.jsonl"))
    assert len(rows) == 24
    assert sum(row["right"] for row in rows) / 24 == artefact.metrics["village.accuracy"]
    page = (artefact.path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "Questions side by side" in page
    results = json.loads((artefact.path / "results.json").read_text(encoding="utf-8"))
    assert results["village"]["accuracy"]["count"] == 24
    again = verify(
        QUICK, model=house.model, shards=house.shards, village=house.village, out=tmp_path / "again"
    )
    assert again.hash == artefact.hash, "the same model says the same"


def test_without_a_village(house: House, tmp_path: Path) -> None:
    artefact = verify(QUICK, model=house.model, shards=house.shards, village=None, out=tmp_path / "verify")
    assert not any(name.startswith("village") for name in artefact.metrics)
    assert set(artefact.parents) == {"model", "shards"}


def test_wrong_inputs(house: House, tmp_path: Path) -> None:
    with create_artefact(tmp_path / "empty", kind="corpus") as draft:
        (draft.path / "x").write_text("x")
    with pytest.raises(ArtefactError, match=r"no questions\.jsonl"):
        read_questions(tmp_path / "empty")
    with pytest.raises(ArtefactError, match="kind"):
        verify(QUICK, model=house.model, shards=house.village, village=None, out=tmp_path / "verify")
    assert not (tmp_path / "verify").exists()
    for wrong in ({"confidence": 1.0}, {"questions": -1}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError):
            VerifyConfig(**wrong)


def test_compare(house: House) -> None:
    questions = read_questions(house.village, limit=16)
    same = compare(
        QUICK, before=house.model, after=house.model, questions=questions, execute=tool_runner(house.village)
    )
    assert same.overall.difference == 0
    assert (same.overall.gained, same.overall.lost, same.overall.p_value) == (0, 0, 1.0)
    runner = tool_runner(house.village)
    better = mark(questions, ask(perfect(house, questions), house.tokenizer, questions, QUICK, runner))
    change = compare_marked(same.before, better, config=QUICK)
    assert change.metrics()["after"] == 1.0
    assert change.overall.gained == 16 - sum(row.right for row in same.before)
    assert set(change.by_kind) == {row["kind"] for row in questions}
    report = Report("Improve")
    change.add_to(report)
    assert open_artefact(house.model).kind == "model"
    with pytest.raises(AssertionError, match="same questions"):
        compare_marked(same.before, better[:-1], config=QUICK)
