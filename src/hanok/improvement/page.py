"""The page of an improvement: the verdict first, then what was taught, and what both models answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hanok.artefacts import write_atomic
from hanok.improvement.config import ImproveConfig
from hanok.improvement.feedback import Refused
from hanok.improvement.lessons import words
from hanok.improvement.verdict import Findings, Verdict
from hanok.reporting import Report

SHOWN = 40


def write_page(
    config: ImproveConfig, findings: Findings, verdict: Verdict, *, preferences: Sequence[Mapping[str, Any]],
    refused: Sequence[Refused], directory: Path,
) -> None:  # fmt: skip
    report = Report(f"Improvement {directory.name}")
    title = (
        "Accepted: the run is served with this model"
        if verdict.accepted
        else "Not accepted: the old model is served"
    )
    report.add_text(title, "\n".join(verdict.reasons))
    report.add_table(
        "Before and after on the same questions",
        ("what", "of", "before", "after"),
        _before_and_after(findings),
    )
    report.add_examples(
        "What was taught", [_example(findings, place) for place in range(len(findings.lessons))][:SHOWN]
    )
    if findings.paraphrases is not None:
        findings.paraphrases.add_to(report, title="The corrected facts in other wordings")
    if findings.others is not None:
        findings.others.add_to(report, title="Other questions of the village")
    splits = list(findings.before.bits)
    report.add_table(
        "Rounds",
        (
            "round",
            "lessons learnt",
            "of",
            *(f"bits per byte, {name}" for name in splits),
            "within the tolerance",
        ),
        [
            (
                one.number,
                one.learnt,
                len(findings.lessons),
                *(one.bits[name] for name in splits),
                one.in_tolerance,
            )
            for one in findings.rounds
        ],
    )
    report.add_table("Feedback", ("what", "rows"), _feedback(findings, preferences, refused))
    if refused:
        report.add_table("Refused rows", ("row", "why"), [(one.row, one.reason) for one in refused[:SHOWN]])
    report.add_table("Settings", ("setting", "value"), list(asdict(config).items()))
    report.add_json({"accepted": verdict.accepted, "metrics": findings.metrics()})
    report.write(directory)
    write_atomic(directory / "answers.jsonl", _answers(findings))


def _before_and_after(findings: Findings) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for kind, title in (("correction", "corrected answers given"), ("liked", "liked answers given")):
        count, before, after = findings.count(kind)
        if count:
            rows.append((title, count, before, after))
    for title, comparison in (
        ("the corrected facts in other wordings: share right", findings.paraphrases),
        ("other questions of the village: share right", findings.others),
    ):
        if comparison is not None:
            change = comparison.overall
            rows.append((title, len(comparison.after), change.before, change.after))
    for name, bits in findings.before.bits.items():
        rows.append(
            (f"bits per byte, {name} validation (lower is better)", None, bits, findings.after.bits[name])
        )
    return rows


def _example(findings: Findings, place: int) -> tuple[str, str]:
    lesson, learnt = findings.lessons[place], findings.after.learnt[place]
    taught = f"taught: {words(lesson.answer)}\n" if lesson.kind == "correction" else ""
    return (
        f"{'learnt' if learnt else 'NOT LEARNT'} · {lesson.kind} · {lesson.question}",
        f"judged: {words(lesson.judged)}\n{taught}before: {findings.before.said[place]}\nafter: {findings.after.said[place]}",
    )


def _feedback(
    findings: Findings, preferences: Sequence[Mapping[str, Any]], refused: Sequence[Refused]
) -> list[tuple[str, int]]:
    kinds = Counter(lesson.kind for lesson in findings.lessons)
    return [
        ("corrections learnt from", kinds["correction"]), ("liked answers kept", kinds["liked"]),
        ("preference pairs", len(preferences)), ("refused", len(refused)),
    ]  # fmt: skip


def _answers(findings: Findings) -> str:
    """Every question of both examinations with both answers, one JSON object a line."""
    rows: list[dict[str, Any]] = [
        {
            "id": lesson.id, "kind": lesson.kind, "question": lesson.question, "taught": words(lesson.answer),
            "before": findings.before.said[place], "after": findings.after.said[place],
            "learnt": findings.after.learnt[place],
        }
        for place, lesson in enumerate(findings.lessons)
    ]  # fmt: skip
    for comparison in (findings.paraphrases, findings.others):
        for old, new in (
            zip(comparison.before, comparison.after, strict=True) if comparison is not None else ()
        ):
            rows.append(
                {
                    "id": new.question["id"], "kind": new.question["kind"],
                    "question": new.question["messages"][-1]["content"], "expected": new.question["answer"],
                    "before": old.answer.text, "after": new.answer.text, "right_before": old.right, "right_after": new.right,
                }
            )  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
