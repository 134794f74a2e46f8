"""Two models on the same questions: what was gained, what was lost, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.artefacts import open_artefact, read_jsonl
from hanok.engine.generator import LocalEngine
from hanok.errors import InputError
from hanok.evaluation.ask import Question, ask
from hanok.evaluation.config import VerifyConfig
from hanok.evaluation.statistics import Change, paired_change
from hanok.evaluation.village import Marked, mark
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both models' answers, and the change over all questions and by kind."""

    before: list[Marked]
    after: list[Marked]
    overall: Change
    by_kind: dict[str, Change]

    def metrics(self) -> dict[str, float]:
        return {
            "before": self.overall.before, "after": self.overall.after, "difference": self.overall.difference,
            "difference_low": self.overall.low, "difference_high": self.overall.high, "p_value": self.overall.p_value,
        }  # fmt: skip

    def changed(self) -> list[tuple[Marked, Marked]]:
        """Questions that one of the two got right, before and after; those that were lost come first."""
        pairs = [(b, a) for b, a in zip(self.before, self.after, strict=True) if b.right != a.right]
        return sorted(pairs, key=lambda pair: pair[1].right)

    def add_to(
        self, report: Report, *, title: str = "Before and after on the same questions", examples: int = 12
    ) -> None:
        """A table of changes, and answers that became right or wrong."""
        rows = [("all", self.overall), *self.by_kind.items()]
        report.add_table(
            title,
            ("questions", "of", "before", "after", "difference", "low", "high", "gained", "lost", "p"),
            [
                (
                    name,
                    self._count(name),
                    c.before,
                    c.after,
                    c.difference,
                    c.low,
                    c.high,
                    c.gained,
                    c.lost,
                    c.p_value,
                )
                for name, c in rows
            ],
        )
        shown = [
            (
                f"{'gained' if a.right else 'LOST'} · {a.question['messages'][-1]['content']}",
                f"expected: {a.question.get('gold') or a.question['answer']}\n"
                f"before: {b.answer.text}\nafter: {a.answer.text}",
            )
            for b, a in self.changed()[:examples]
        ]
        if shown:
            report.add_examples(f"{title}: what changed", shown)

    def _count(self, kind: str) -> int:
        return len(self.after) if kind == "all" else sum(row.question["kind"] == kind for row in self.after)


def compare(
    config: VerifyConfig,
    *,
    before: Path,
    after: Path,
    questions: Sequence[Question],
    execute: Callable[[Mapping[str, Any]], str],
) -> Comparison:
    """Ask two model directories the same questions.

    Args:
        questions: rows of the village, or {kind, messages, answer, acceptable?} judged by equality of the text.
        execute: runs a tool call (`village.tool_runner`).
    """
    marked = [
        mark(questions, ask(LocalEngine(model), Tokenizer.load(model), questions, config, execute))
        for model in (before, after)
    ]
    return compare_marked(*marked, config=config)


def compare_marked(before: Sequence[Marked], after: Sequence[Marked], *, config: VerifyConfig) -> Comparison:
    """The same of answers that were already marked, for instance read from two `answers.jsonl`."""
    assert [row.question["id"] for row in before] == [row.question["id"] for row in after], (
        "the same questions"
    )

    def change(kind: str | None) -> Change:
        pairs = [
            (b.right, a.right)
            for b, a in zip(before, after, strict=True)
            if kind is None or a.question["kind"] == kind
        ]
        return paired_change(
            [b for b, _ in pairs], [a for _, a in pairs], confidence=config.confidence, seed=config.seed
        )

    kinds = sorted({str(row.question["kind"]) for row in after})
    return Comparison(list(before), list(after), change(None), {kind: change(kind) for kind in kinds})


def compare_answers(
    before: Path, after: Path, *, confidence: float = 0.95, seed: int = 1
) -> dict[str, Change]:
    """Two evaluations of the same exam, by kind of question (and by part, where the exam has parts).

    Raises:
        InputError: they did not ask the same questions.
    """
    rows = [_answers(directory) for directory in (before, after)]
    if rows[0].keys() != rows[1].keys():
        raise InputError(
            f"{before} and {after} answer different questions",
            remedy="verify both models with the same --village",
        )
    groups: dict[str, list[str]] = {"all": list(rows[0])}
    for name, row in rows[0].items():
        groups.setdefault(str(row["kind"]), []).append(name)
        if row.get("part") not in (None, row["kind"]):
            groups.setdefault(f"  {row['part']}", []).append(name)
    return {
        group: paired_change(
            [rows[0][name]["right"] for name in names], [rows[1][name]["right"] for name in names],
            confidence=confidence, seed=seed,
        )
        for group, names in groups.items()
    }  # fmt: skip


def _answers(directory: Path) -> dict[str, Mapping[str, Any]]:
    open_artefact(directory, kind="evaluation")
    return {str(row["id"]): row for row in read_jsonl(directory / "answers.jsonl")}
