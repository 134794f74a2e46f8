"""The report of a judge: what became of the pairs, whether the order swayed it, what people say, and pairs to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanok.reporting import Report

_EXAMPLES = 4


def write_page(
    judged: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], directory: Path, *, judge: str
) -> None:
    report = Report(f"Judged by {judge}")
    counts = [(name, metrics[name]) for name in ("pairs", "preferences", "ties", "ties.contrary", "failed")]
    reasons = [(name, value) for name, value in metrics.items() if name.startswith("failed.")]
    report.add_table(
        'Pairs ("contrary" ties: the two orders name different answers)', ("what", "pairs"), counts + reasons
    )
    report.add_table(
        "Does the order sway the judge? A share of a half for the first answer is no bias",
        ("measure", "value", "low", "high"),
        [
            (title, metrics[name], metrics[f"{name}.low"], metrics[f"{name}.high"])
            for title, name in (
                ("verdicts for the answer shown first", "position.first"),
                ("pairs with the same verdict in both orders", "consistent"),
                ("Cohen's kappa of the two orders", "orders.kappa"),
            )
        ],
    )
    people = [name.removesuffix(".accuracy") for name in metrics if name.endswith(".accuracy")]
    if people:
        report.add_table(
            "Against people's labels (95 % intervals)",
            ("subset", "pairs", "decided", "accuracy", "low", "high", "ties as half", "kappa", "low", "high"),
            [
                (name.removeprefix("people.") if name != "people" else "all", *_line(metrics, name))
                for name in people
            ],
        )
    report.add_examples("Some pairs", list(_examples(judged)))
    report.write(directory)


def _line(metrics: Mapping[str, Any], name: str) -> list[Any]:
    keys = (
        "pairs", "decided", "accuracy", "accuracy.low", "accuracy.high", "with_ties", "kappa", "kappa.low", "kappa.high",
    )  # fmt: skip
    return [metrics[f"{name}.{key}"] for key in keys]


def _examples(judged: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """A few of each verdict."""
    for verdict in ("first", "second", "tie", "failed"):
        for one in [one for one in judged if one["verdict"] == verdict][:_EXAMPLES]:
            if verdict == "failed":
                yield f"failed · {one['id']}", f"{one['failed']}: {one['detail']}"
                continue
            reasons = "\n".join(filter(None, one["reasons"]))
            first, second = one["answers"]
            yield (
                f"{verdict} ({one['probability']:.2f} for the first) · {one['id']}",
                f"first: {first}\nsecond: {second}\n{reasons}",
            )
