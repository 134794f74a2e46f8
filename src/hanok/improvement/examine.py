"""Asking a model what it was taught, and whether other things stayed as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts.shards import Shards
from hanok.data.village.check import check
from hanok.engine.generator import LocalEngine
from hanok.evaluation.ask import Question, ask
from hanok.evaluation.bits import held_out_bits
from hanok.evaluation.compare import Comparison, compare_marked
from hanok.evaluation.config import VerifyConfig
from hanok.evaluation.village import Marked, mark, read_questions, tool_runner
from hanok.improvement.config import ImproveConfig
from hanok.improvement.lessons import Lesson, words
from hanok.tokens.tokenizer import Tokenizer

VALIDATION = ("chat-validation", "text-validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What one model answers.

    Args:
        said: to each lesson's question, in order. learnt: whether that is what the lesson teaches.
        bits: split name to bits per byte.
        others, paraphrases: the village's questions about other things, and other wordings of what was corrected.
    """

    said: list[str]
    learnt: list[bool]
    bits: dict[str, float]
    others: list[Marked] = dataclasses.field(default_factory=list)
    paraphrases: list[Marked] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Village:
    """Questions that the lessons do not answer, and other wordings of those that they do."""

    others: list[Question]
    paraphrases: list[Question]
    execute: Callable[[Mapping[str, Any]], str]


def open_village(path: Path, lessons: Sequence[Lesson], *, limit: int) -> Village | None:
    """The examination of a run's village; None where the run has none."""
    if not (path / "questions.jsonl").is_file():
        return None
    paraphrases: list[Question] = [
        {**question, "kind": "paraphrase"}
        for question in read_questions(path)
        if any(_rephrases(question, lesson) for lesson in lessons)
    ]
    apart = {str(question["id"]) for question in paraphrases}
    asked = {lesson.question for lesson in lessons}
    others = [
        question
        for question in read_questions(path, limit=limit)
        if str(question["id"]) not in apart and question["messages"][-1]["content"] not in asked
    ]
    return Village(others, paraphrases, tool_runner(path))


def examine(
    config: ImproveConfig,
    model: Path,
    lessons: Sequence[Lesson],
    shards: Shards,
    village: Village | None = None,
) -> Examination:
    """Ask one model directory everything.

    Args:
        shards: of the improvement; its validation splits are scored. village: left out between rounds.
    """
    engine, tokenizer = LocalEngine(model), Tokenizer.load(model)
    try:
        said = _ask_lessons(config, engine, tokenizer, lessons)
        learnt = [
            _tidy(one) == _tidy(words(lesson.answer)) for one, lesson in zip(said, lessons, strict=True)
        ]
        bits = {
            name.removesuffix("-validation"): held_out_bits(
                engine.decoder,
                shards.splits[name],
                byte_lengths=tokenizer.byte_lengths,
                max_tokens=config.bits_tokens,
            ).per_byte
            for name in VALIDATION
            if name in shards.splits
        }
        if village is None:
            return Examination(said=said, learnt=learnt, bits=bits)
        verify = verify_config(config)
        others, paraphrases = (
            mark(questions, ask(engine, tokenizer, questions, verify, village.execute)) if questions else []
            for questions in (village.others, village.paraphrases)
        )
        return Examination(said=said, learnt=learnt, bits=bits, others=others, paraphrases=paraphrases)
    finally:
        engine.close()


def verify_config(config: ImproveConfig) -> VerifyConfig:
    return VerifyConfig(max_new_tokens=config.max_new_tokens, seed=config.seed)


def compare_examinations(
    config: ImproveConfig, before: Sequence[Marked], after: Sequence[Marked]
) -> Comparison | None:
    """None where nothing was asked."""
    return compare_marked(before, after, config=verify_config(config)) if after else None


def _ask_lessons(
    config: ImproveConfig, engine: LocalEngine, tokenizer: Tokenizer, lessons: Sequence[Lesson]
) -> list[str]:
    """What the model says, calls included; nothing is executed."""
    questions = [
        {"kind": lesson.kind, "messages": [dict(m) for m in lesson.prompt], "tools": lesson.tools}
        for lesson in lessons
    ]
    verify = dataclasses.replace(verify_config(config), tool_rounds=0)
    answers = ask(engine, tokenizer, questions, verify, lambda _call: "")
    return [
        words({"role": "assistant", "content": answer.text, "tool_calls": answer.tool_calls})
        for answer in answers
    ]


def _rephrases(question: Question, lesson: Lesson) -> bool:
    """Whether a question of the village asks for the fact that a correction states, in other words."""
    if lesson.kind != "correction" or question["kind"] != "fact" or "type" not in question:
        return False
    if question["messages"][-1]["content"] == lesson.question:
        return False
    return str(question["subject"][0]) in lesson.question and check(question, words(lesson.answer))


def _tidy(text: str) -> str:
    return " ".join(text.split())
