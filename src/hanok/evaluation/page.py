"""The page of verify: claims with intervals, the breakdown, a plot, and answers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanok.evaluation.config import VerifyConfig
from hanok.evaluation.statistics import Share
from hanok.evaluation.village import LANGUAGES, Line, Marked, breakdown, by_attribute
from hanok.reporting import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hanok.evaluation.verify import Findings

_INTERVAL = ("right", "of", "share", "low", "high")


def write_page(findings: Findings, config: VerifyConfig, directory: Path) -> None:
    report = Report("Verify")
    report.add_table(
        "Bits per byte of held-out text",
        ("split", "bits per byte", "nats a token", "documents", "tokens", "bytes"),
        [
            (name, bits.per_byte, bits.nats_per_token, bits.documents, bits.tokens, bits.bytes)
            for name, bits in findings.bits.items()
        ],
    )
    if findings.marked:
        _village(report, findings, config)
    if findings.continuations:
        examples = [
            (f"{c.split}: {c.prompt}", f"expected: {c.expected}\ngot: {c.got}")
            for c in findings.continuations
        ]
        report.add_examples("Held-out documents continued", examples)
    report.write(directory)


def interval(share: Share) -> tuple[Any, ...]:
    """Cells for the columns right, of, share, low, high."""
    return (share.right, share.count, share.value, share.low, share.high)


def _village(report: Report, findings: Findings, config: VerifyConfig) -> None:
    percent = f"{config.confidence:.0%}"
    report.add_table(
        f"The village: {len(findings.marked):,} held-out questions ({percent} Wilson intervals)",
        ("questions", *_INTERVAL),
        [(line.title, *interval(line.share)) for line in findings.lines],
    )
    report.add_plot("Share of right answers", share_plot(findings.lines))
    report.add_table(
        "By kind, language, template and pair",
        ("kind", "language", "template", "pair", *_INTERVAL),
        [
            (cell[0], LANGUAGES.get(cell[1], cell[1]), *cell[2:], *interval(share))
            for cell, share in breakdown(findings.marked, config.confidence)
        ],
    )
    report.add_table(
        "Facts by attribute",
        ("attribute", "pair", *_INTERVAL),
        [(*cell, *interval(share)) for cell, share in by_attribute(findings.marked, config.confidence)],
    )
    report.add_examples("Questions side by side", list(_side_by_side(findings.marked, config.samples)))


def share_plot(lines: Sequence[Line]) -> Figure:
    """A bar a line, with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.32 * len(lines) + 0.8))
    axes = figure.subplots()
    shown = list(reversed(lines))
    values = [line.share.value for line in shown]
    errors = [
        [max(0.0, line.share.value - line.share.low) for line in shown],
        [max(0.0, line.share.high - line.share.value) for line in shown],
    ]
    axes.barh([line.title for line in shown], values, xerr=errors, color="#2f6f5e", ecolor="#444", capsize=2)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("share of questions")
    return figure


def _side_by_side(marked: Sequence[Marked], samples: int) -> Iterator[tuple[str, str]]:
    """A few of each kind and language: first wrong ones, then right ones."""
    groups: dict[tuple[str, str], list[Marked]] = {}
    for row in marked:
        key = (str(row.question["kind"]), str(row.question.get("language", "-")))
        groups.setdefault(key, []).append(row)
    for (kind, language), rows in sorted(groups.items()):
        wrong = [row for row in rows if not row.right][:samples]
        right = [row for row in rows if row.right][: max(1, samples - len(wrong))]
        for row in wrong + right:
            calls = "".join(
                f"\ncalled: {call['function']['name']} {call['function']['arguments']}"
                for call in row.answer.tool_calls
            )
            question = " / ".join(m["content"] for m in row.question["messages"] if m["role"] == "user")
            yield (
                f"{'right' if row.right else 'WRONG'} · {kind}, {LANGUAGES.get(language, language)} · {question}",
                f"expected: {row.question.get('gold') or row.question['answer']}{calls}\ngot: {row.answer.text}",
            )
