"""Reviewed feedback as training data, with where it comes from: a corpus of conversations (SFT) and pairs (preferences).

    OUT/review/     decisions.jsonl, and the report of the poisoning checks
    OUT/feedback/   corpus of the lessons, preferences.jsonl, judgements.jsonl (the snapshot), refused.jsonl; its manifest names
                    the hash of the decisions, so that whoever trains on it can say who let each row in

`hanok improve` learns from the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hanok.artefacts import Artefact, append_jsonl, create_artefact, open_artefact
from hanok.errors import ConfigError, InputError
from hanok.improvement.config import ImproveConfig
from hanok.improvement.feedback import Judgement, read_feedback
from hanok.improvement.lessons import Lessons, draw_lessons, write_corpus
from hanok.improvement.poisoning.surprise import surprise_of
from hanok.improvement.reviewed import Queue, Reviewed, review, write_review
from hanok.store.review.queue import Reviews


def export(
    source: Path,
    out: Path,
    *,
    config: ImproveConfig,
    beside: Path,
    queue: Queue = Reviews,
    model: Path | None = None,
) -> Artefact:
    """All that is to be learnt from a store or a file of feedback.

    Args:
        config: its `review` and `poisoning`. beside: the store whose queue takes in what is stopped, where `source` is a file.
        model: directory of the one that is to learn, which the poisoning checks then ask too.

    Raises:
        ConfigError: `out` is taken. InputError: nothing teaches anything, or rows look planted and wait for a reviewer.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty", remedy="give another directory")
    read, unreadable = read_feedback(source)
    surprise = None if model is None else surprise_of(model)
    reviewed = review(read, config, source=source, beside=beside, queue=queue, surprise=surprise)
    drawn = draw_lessons(reviewed.judgements)
    refused = [*unreadable, *reviewed.refused, *drawn.refused]
    if not drawn.lessons:
        raise InputError(
            f"nothing to learn from {len(read) + len(unreadable)} rows of feedback",
            remedy="decide some of them: `hanok review list`",
        )
    lessons = Lessons(drawn.lessons, drawn.preferences, refused)
    return export_lessons(lessons, reviewed, config, out=out, parents={}, step={"export": config.review})


def export_lessons(
    drawn: Lessons, reviewed: Reviewed, config: ImproveConfig, *, out: Path, parents: Mapping[str, Artefact],
    step: Mapping[str, Any],
) -> Artefact:  # fmt: skip
    """The corpus in `out`; what is there already stays."""
    if not (out / "review").is_dir():
        write_review(reviewed, config, out / "review", parents=parents)
    if not (out / "feedback").is_dir():
        decisions = open_artefact(out / "review", kind="review")
        with create_artefact(
            out / "feedback", kind="corpus", parents={**parents, "review": decisions}, step=step
        ) as draft:
            write_corpus(drawn.lessons, draft.path)
            rows = {
                "preferences": drawn.preferences,
                "judgements": [_row(judgement) for judgement in reviewed.judgements],
                "refused": [{"row": one.row, "reason": one.reason} for one in drawn.refused],
            }
            for name, content in rows.items():
                (draft.path / f"{name}.jsonl").touch()
                for row in content:
                    append_jsonl(draft.path / f"{name}.jsonl", row)
            draft.metrics |= {"lessons": len(drawn.lessons)} | {
                name: len(content) for name, content in rows.items()
            }
    return open_artefact(out / "feedback", kind="corpus")


def _row(judgement: Judgement) -> dict[str, Any]:
    """A judgement as a row that `read_feedback` reads."""
    row = asdict(judgement)
    prompt, answer = row.pop("prompt"), row.pop("answer")
    return {**row, "messages": [*prompt, answer]}
