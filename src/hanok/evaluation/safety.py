"""`hanok eval safety`: what a village model refuses, what it refuses for nothing, and whose instructions it follows.

answers.jsonl   every question, what the model said, whether it was right, refused, or followed an injected instruction
results.json    shares with Wilson intervals by measure, language and obfuscation     report.html, report.json   the page

measure              of                                                                better
refusal              harmful requests, by obfuscation; `new`: acts unknown to training   high
over-refusal         benign look-alikes, by obfuscation; `new`; plain facts; direct      low
answered             the same: the right fact                                            high
injection followed   orders inside a quoted text or a tool's result                      low
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, create_artefact, open_artefact, read_jsonl, write_json, write_jsonl
from hanok.data.village.safety import followed, refused, right
from hanok.engine.generator import LocalEngine
from hanok.errors import ArtefactError
from hanok.evaluation.ask import ask
from hanok.evaluation.config import QUESTIONS, Split, VerifyConfig
from hanok.evaluation.statistics import Share, wilson
from hanok.evaluation.village import tool_runner
from hanok.reporting import Report
from hanok.tokens.tokenizer import Tokenizer

Row = Mapping[str, Any]
_EXAMPLES = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One share: `language` is "" for all, `obfuscation` "" for all of them."""

    measure: str
    language: str
    obfuscation: str
    share: Share

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.measure, self.language, self.obfuscation)))


def examine_safety(
    config: VerifyConfig, *, model: Path, safety: Path, out: Path, split: Split = "exam"
) -> Artefact:
    """Kind "evaluation"; `hanok eval compare` compares two of them.

    Args:
        safety: a corpus of `hanok data village-safety`. split: "exam", or "validation" to choose settings by.

    Raises:
        ArtefactError: not such a corpus, or a damaged one.
    """
    parents = {"model": open_artefact(model), "safety": open_artefact(safety, kind="corpus")}
    file = safety / QUESTIONS[split]
    questions = list(read_jsonl(file)) if file.is_file() else []
    if not questions or "obfuscation" not in questions[0]:
        raise ArtefactError(
            f"{safety} holds no safety exam", remedy="give a corpus of `hanok data village-safety`"
        )
    step = {**dataclasses.asdict(config), "split": split}
    with create_artefact(out, kind="evaluation", parents=parents, step=step) as draft:
        with closing(LocalEngine(model)) as engine:
            answers = ask(engine, Tokenizer.load(model), questions, config, tool_runner(safety))
        rows = [
            marked(question, answer.text, answer.finish_reason)
            for question, answer in zip(questions, answers, strict=True)
        ]
        write_jsonl(draft.path / "answers.jsonl", rows)
        found = list(measure(rows, config.confidence))
        write_json(
            draft.path / "results.json",
            {one.name: dataclasses.asdict(one.share) | {"value": one.share.value} for one in found},
        )
        _write_page(rows, found, config, draft.path)
        draft.metrics |= {one.name: one.share.value for one in found} | {"questions": len(rows)}
    return open_artefact(out, kind="evaluation")


def marked(question: Row, text: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        **question, "said": text, "right": right(question, text), "refused": refused(text),
        "followed": followed(question, text), "finish_reason": finish_reason,
    }  # fmt: skip


def measure(rows: Sequence[Row], confidence: float) -> Iterator[Measured]:
    """All shares, each for both languages together and apart, and where it applies by obfuscation."""
    known = [row for row in rows if not row["new"]]
    new = [row for row in rows if row["new"]]
    cells: tuple[tuple[str, str, Callable[[Row], bool], Sequence[Row], bool], ...] = (
        ("refusal", "refused", _kind("harmful"), known, True),
        ("refusal_new", "refused", _kind("harmful"), new, False),
        ("over_refusal", "refused", _kind("benign"), known, True),
        ("over_refusal_new", "refused", _kind("benign"), new, False),
        ("over_refusal_plain", "refused", _kind("plain"), known, False),
        ("over_refusal_direct", "refused", _kind("direct"), known, False),
        ("answered", "right", _kind("benign"), known, True),
        ("answered_new", "right", _kind("benign"), new, False),
        ("answered_plain", "right", _kind("plain"), known, False),
        ("answered_direct", "right", _kind("direct"), known, False),
        ("answered_quoted", "right", _kind("quoted"), known, False),
        ("answered_tool", "right", _kind("tool"), known, False),
        ("followed_quoted", "followed", _kind("quoted"), known, False),
        ("followed_tool", "followed", _kind("tool"), known, False),
    )
    for name, column, chosen, among, by_way in cells:
        mine = [row for row in among if chosen(row)]
        for language in ("", *sorted({row["language"] for row in mine})):
            spoken = [row for row in mine if language in ("", row["language"])]
            ways = list(dict.fromkeys(row["obfuscation"] for row in spoken)) if by_way else []
            for way in ("", *ways):
                group = [row for row in spoken if way in ("", row["obfuscation"])]
                if group:
                    hits = sum(bool(row[column]) for row in group)
                    yield Measured(name, language, way, wilson(hits, len(group), confidence))


def _kind(kind: str) -> Callable[[Row], bool]:
    return lambda row: row["kind"] == kind


def _write_page(
    rows: Sequence[Row], found: Sequence[Measured], config: VerifyConfig, directory: Path
) -> None:
    report = Report("Safety of a village model")
    report.add_table(
        f"Shares with {config.confidence:.0%} Wilson intervals",
        ("measure", "language", "obfuscation", "yes", "of", "share", "low", "high"),
        [
            (
                one.measure, one.language or "both", one.obfuscation or "all", one.share.right, one.share.count,
                one.share.value, one.share.low, one.share.high,
            )
            for one in found
        ],
    )  # fmt: skip
    report.add_examples("Questions side by side", list(_examples(rows)))
    report.write(directory)


def _examples(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """A few of each part and language: wrong ones first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["part"]), str(row["language"])), []).append(row)
    for (part, language), group in groups.items():
        for row in sorted(group, key=lambda row: bool(row["right"]))[:_EXAMPLES]:
            asked = " / ".join(str(message.get("content") or "(a call)") for message in row["messages"])
            yield (
                f"{'right' if row['right'] else 'WRONG'} · {part}, {language} · {asked}",
                f"expected: {row['gold']}\ngot: {row['said']}",
            )
