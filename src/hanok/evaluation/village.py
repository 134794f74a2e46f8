"""The village's exam: questions with answers that a program checks, counted by what makes them easy or hard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import open_artefact, read_jsonl
from hanok.data.village.check import abstained, check
from hanok.data.village.tools import execute
from hanok.errors import ArtefactError
from hanok.evaluation.ask import Answer, Question
from hanok.evaluation.config import QUESTIONS, Split
from hanok.evaluation.statistics import Share, wilson

LANGUAGES = {"ko": "Korean", "en": "English"}
REAL_PLACE = ("fact", "follow-up", "comparison")
"""Kinds of question that a model which knows the village never declines."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A question, what the model said, and whether it was right; `abstained`: it said that it does not know."""

    question: Question
    answer: Answer
    right: bool
    abstained: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the results: a share of the questions that `chosen` picks."""

    name: str
    title: str
    share: Share


def read_questions(village: Path, *, limit: int = 0, split: Split = "exam") -> Sequence[Question]:
    """Rows of `questions.jsonl` (or of those that settings are chosen by), or `limit` of them evenly spaced.

    Raises:
        ArtefactError: the directory is no village, or damaged.
    """
    open_artefact(village, kind="corpus")
    file = village / QUESTIONS[split]
    if not file.is_file():
        raise ArtefactError(f"no {file.name} in {village}", remedy="give a corpus of `hanok data village`")
    rows = list(read_jsonl(file))
    if not limit or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def tool_runner(village: Path) -> Callable[[Mapping[str, Any]], str]:
    """Runs the calculator, and looks opening hours up in the village's own timetable."""
    table = json.loads((village / "timetable.json").read_text(encoding="utf-8"))
    return lambda call: execute(call, table)


def mark(questions: Sequence[Question], answers: Sequence[Answer]) -> list[Marked]:
    return [
        Marked(question, answer, is_right(question, answer), abstained(answer.text))
        for question, answer in zip(questions, answers, strict=True)
    ]


def is_right(question: Question, answer: Answer) -> bool:
    """The village's checker; other questions are right when the answer is one of the `acceptable` texts."""
    if "type" in question:
        return check(question, answer.text, answer.tool_calls)
    wanted = question.get("acceptable") or [question["answer"]]
    return _tidy(answer.text) in {_tidy(str(text)) for text in wanted}


def headlines(marked: Sequence[Marked], confidence: float) -> list[Line]:
    """The claims: what was learnt, what generalises, what is honestly not known. Only lines that count something."""
    return [line for line in _headlines(marked, confidence) if line.share.count]


def _headlines(marked: Sequence[Marked], confidence: float) -> Iterator[Line]:
    def line(name: str, title: str, rows: Sequence[Marked]) -> Line:
        return Line(name, title, wilson(sum(row.right for row in rows), len(rows), confidence))

    yield line("accuracy", "all questions", marked)
    asked = [row for row in marked if row.question.get("pair") != "documents-only"]
    for language, title in LANGUAGES.items():
        for seen, words in ((True, "seen"), (False, "unseen")):
            rows = [
                row
                for row in asked
                if row.question["language"] == language and row.question.get("seen_template") is seen
            ]
            yield line(f"{words}_templates.{language}", f"{words} templates, {title}", rows)
    documents = [row for row in marked if row.question.get("pair") == "documents-only"]
    yield line("documents_only", "pairs known only from documents", documents)
    for language, title in LANGUAGES.items():
        rows = [row for row in documents if row.question["language"] == language]
        yield line(f"documents_only.{language}", f"pairs known only from documents, {title}", rows)
    for kind in sorted({str(row.question["kind"]) for row in marked}):
        yield line(_key(kind), kind, [row for row in asked if row.question["kind"] == kind])
    real = [row for row in marked if row.question["kind"] in REAL_PLACE]
    false = sum(row.abstained for row in real)
    yield Line("false_abstention", "false abstention (lower is better)", wilson(false, len(real), confidence))


Cell = tuple[str, str, str, str]


def breakdown(marked: Sequence[Marked], confidence: float) -> list[tuple[Cell, Share]]:
    """Share right by (kind, language, template seen or unseen, pair)."""
    groups: dict[Cell, list[bool]] = {}
    for row in marked:
        question = row.question
        seen = {True: "seen", False: "unseen"}.get(question.get("seen_template"), "-")  # type: ignore[arg-type]
        cell = (
            str(question["kind"]),
            str(question.get("language", "-")),
            seen,
            str(question.get("pair") or "-"),
        )
        groups.setdefault(cell, []).append(row.right)
    return [(cell, wilson(sum(rights), len(rights), confidence)) for cell, rights in sorted(groups.items())]


def by_attribute(marked: Sequence[Marked], confidence: float) -> list[tuple[tuple[str, str], Share]]:
    """Share right of fact questions by (attribute, pair)."""
    groups: dict[tuple[str, str], list[bool]] = {}
    for row in marked:
        if row.question["kind"] == "fact":
            groups.setdefault((row.question["type"], str(row.question["pair"])), []).append(row.right)
    return [(cell, wilson(sum(rights), len(rights), confidence)) for cell, rights in sorted(groups.items())]


def _key(kind: str) -> str:
    return kind.replace("-", "_")


def _tidy(text: str) -> str:
    return " ".join(text.split()).strip(" .").casefold()
