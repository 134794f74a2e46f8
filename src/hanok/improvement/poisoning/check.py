"""All checks of feedback before anything is learnt from it: of each row alone its characters; of all together triggers, copies,
the people who gave them, and what the model that is to learn them makes of them.

A row that a check stops is not trained on until a reviewer has released it (`hanok.improvement.reviewed`); a release holds for
the row as it is, word for word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanok.data.poison import scan_text
from hanok.guard.unseen import Unseen
from hanok.improvement.feedback import Judgement
from hanok.improvement.poisoning.annotators import find_drift
from hanok.improvement.poisoning.copies import find_copies
from hanok.improvement.poisoning.rows import Diversity, Finding, Row, read_rows
from hanok.improvement.poisoning.surprise import Surprise, find_surprising
from hanok.improvement.poisoning.triggers import find_triggers
from hanok.reporting import Report

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Checked:
    """Args: rows: all that were looked at. findings: widest first."""

    rows: Sequence[Row]
    findings: Sequence[Finding]
    stopped: Mapping[int, Sequence[Finding]] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        checks = Counter(finding.check for finding in self.findings)
        return {
            "rows": len(self.rows), "stopped": len(self.stopped), "findings": len(self.findings),
            **{f"findings.{check}": count for check, count in sorted(checks.items())},
        }  # fmt: skip


def check_feedback(judgements: Sequence[Judgement], *, surprise: Surprise | None = None) -> Checked:
    """Args:
    judgements: oldest first; those that were released are in it too: others are compared with them.
    surprise: how much the current model is surprised by each (`surprise_of`); None: it is not asked.
    """
    rows = read_rows(judgements)
    diversity = Diversity(rows)
    classes, surprising = find_surprising(rows, surprise) if surprise is not None else ([], [])
    findings = [
        *_alone(rows),
        *find_triggers(rows, diversity, more=classes),
        *surprising,
        *find_copies(rows, diversity),
        *find_drift(rows),
    ]
    findings.sort(key=lambda one: (-one.stops, -len(one.rows)))
    stopped: dict[int, list[Finding]] = {}
    for finding in findings:
        for number in finding.rows if finding.stops else ():
            stopped.setdefault(number, []).append(finding)
    return Checked(rows, findings, stopped)


def write_page(checked: Checked, directory: Path, *, title: str = "Poisoning checks") -> None:
    """`report.html` and `report.json`."""
    report = Report(title)
    share = len(checked.stopped) / len(checked.rows) if checked.rows else 0.0
    report.add_text(
        "Result",
        f"{len(checked.stopped)} of {len(checked.rows)} rows ({share:.1%}) are stopped until a reviewer has looked at them."
        if checked.stopped
        else f"Nothing is stopped in {len(checked.rows)} rows.",
    )
    report.add_table(
        "What was found",
        ("check", "rows", "stops them", "what", "why"),
        [(one.check, len(one.rows), one.stops, one.text, one.reason) for one in checked.findings[:_SHOWN]],
    )
    stopped = [checked.rows[number] for number in sorted(checked.stopped)][:_SHOWN]
    report.add_examples(
        "Rows that are stopped", [(f"{row.judgement.id} · {row.question}", row.taught) for row in stopped]
    )
    report.add_json({"metrics": checked.metrics()})
    report.write(directory)


def _alone(rows: Sequence[Row]) -> Iterator[Finding]:
    """What is wrong with a row by itself: control tokens, payloads, characters that nobody sees, in what was asked or taught."""
    unseen = Unseen()
    for row in rows:
        for name, text in (("the question", row.question), ("the taught text", row.taught)):
            for found in scan_text(text):
                yield Finding(
                    found.kind, found.text, f"{found.reason}, in {name}", (row.number,), stops=found.severe
                )
            if (hidden := next(unseen.find(text), None)) is not None:
                where = f"characters {hidden.start} to {hidden.end}"
                yield Finding(
                    "unseen characters", where, f"characters that nobody sees, in {name}", (row.number,)
                )
