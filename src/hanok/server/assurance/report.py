"""The report: every requirement with its state, as a page and as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanok.reporting import Report
from hanok.server.assurance import chapters_1_to_6, chapters_7_to_12, top_ten
from hanok.server.assurance.checks import STATES, Control, Facts, State

STANDARDS: Mapping[str, Sequence[Control]] = {
    "OWASP AISVS 1.0": (*chapters_1_to_6.ROWS, *chapters_7_to_12.ROWS),
    "OWASP Top 10 for LLM applications 2026": top_ten.ROWS,
}
_COLUMNS = ("id", "level", "asks for", "state", "why", "answered by")
_PREFIX = {"OWASP AISVS 1.0": "v1.0-", "OWASP Top 10 for LLM applications 2026": "2026-"}


@dataclass(frozen=True, slots=True)
class Row:
    standard: str
    control: Control
    state: State
    why: str

    @property
    def id(self) -> str:
        """As others cite it."""
        return _PREFIX[self.standard] + self.control.id


def judged(facts: Facts) -> list[Row]:
    """Every requirement of every standard."""
    found: list[Row] = []
    for standard, controls in STANDARDS.items():
        for control in controls:
            one = control.check(facts)
            found.append(Row(standard, control, one.state, one.why))
    return found


def counted(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """(standard, level, how many of each state)."""
    lines: list[tuple[Any, ...]] = []
    for standard in STANDARDS:
        for level in sorted({row.control.level for row in rows if row.standard == standard}):
            states = Counter(
                row.state for row in rows if (row.standard, row.control.level) == (standard, level)
            )
            lines.append((standard, level or "", *(states[state] for state in STATES)))
    return lines


def write(rows: Sequence[Row], facts: Facts, out: Path) -> None:
    """`report.html` and `report.json` in `out`."""
    report = Report("What standards ask for, and what answers for it")
    report.add_table("Made from", ("", ""), list(_sources(facts).items()))
    report.add_table("In numbers", ("standard", "level", *STATES), counted(rows))
    report.add_text("How to read it", _READING)
    for standard in STANDARDS:
        lines = [
            (row.id, row.control.level or "", row.control.asks, row.state, row.why, row.control.answers)
            for row in rows
            if row.standard == standard
        ]
        report.add_table(standard, _COLUMNS, lines)
    out.mkdir(parents=True, exist_ok=True)
    report.write(out)


_READING = (
    "Met: a setting, a rule of the policy or entries of the audit say so, or it is so by construction and the tests that are "
    "named hold it. For the operator: this program cannot see it. The words are ours; the standard's own decide. This page is "
    "made by the program that it is about, and is no certificate."
)


def _sources(facts: Facts) -> dict[str, str]:
    audit = {None: "none", True: "whole", False: "damaged"}[facts.audit]
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.now)),
        "policy": f"{Path(facts.policy.source).name} {facts.policy.hash[:16]}", "tenant": facts.tenant,
        "audit": f"{audit}, {sum(facts.entries.values())} entries",
        "attacks": "none" if facts.attacked is None
        else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.attacked["time"])),
    }  # fmt: skip
